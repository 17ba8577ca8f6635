//! Placeholder head; the crate grows below.
