"""What every view stands on: its shell, its parts, its theme, its charts, and how it stays in step with the browser."""
