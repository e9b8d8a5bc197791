"""From lists of URLs to downloaded, checked, resized pictures in parts."""
