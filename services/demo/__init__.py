"""The demo: hundreds of orders through six services, in processes of their own."""
