"""What Encode, Decode and Generate do, whichever protocol a call came by."""
