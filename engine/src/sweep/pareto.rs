//! What is better where several objectives count.
