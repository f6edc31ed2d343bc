"""QUIC connections: the listener, the client's side, and the QUIC libraries behind them."""
