"""What would a candidate cost, without measuring it?"""
