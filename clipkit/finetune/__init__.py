"""WiSE-FT: fine-tune a zero-shot model, and measure the line between both (Wortsman et al. 2022)."""
