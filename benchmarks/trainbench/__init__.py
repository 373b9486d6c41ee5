"""What `train_bench.py` is made of: models, the published recipe, our ladder, the clock."""
