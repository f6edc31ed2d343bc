"""The processes of one gateway, and what starts and watches them."""
