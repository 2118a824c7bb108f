"""From patches to features: the streaming loop, and the slide embedding made of its features."""
