"""The file formats of models: OpenAI's, OpenCLIP's, safetensors, and how any of them is read safely."""
