"""Does a GPU host compute what the checkpoint does, and how fast?"""
