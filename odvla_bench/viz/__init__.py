"""Pictures: the bird's-eye view of a keyframe and its plans."""
