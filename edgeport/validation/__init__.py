"""What an artifact costs: accuracy, parity with float, latency, memory, power proxies."""
