"""What searches over reasoning steps share: one step at a time, its reward, finished trajectories, the final choice."""
