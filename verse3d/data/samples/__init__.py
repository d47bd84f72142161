"""What a network is trained on: cases prepared once and kept on disk, boxes cut from them, samples made of boxes."""
