"""`sightline bench`: what a decoder costs beside plain greedy decoding, measured side by side or worked out."""
