"""The models: ChannelTok tokenizers, how they are trained and how they are judged. PyTorch lives here and in export/ only."""
