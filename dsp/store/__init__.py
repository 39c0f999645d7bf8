"""The catalogue and the book in SQL: tables, sessions, repositories, audit trail and migrations."""
