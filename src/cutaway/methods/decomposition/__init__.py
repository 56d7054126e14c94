"""Attribution that takes the score apart: shares of the target that add up."""
