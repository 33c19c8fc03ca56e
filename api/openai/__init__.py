"""The OpenAI surface: chats, responses, models, batches."""
