//! How requests and replies are framed, as agreed on in the handshake.

/// The frames of a connection in transmission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// Compact requests, simple replies.
    #[default]
    Simple,
    /// Compact requests; structured replies wherever there is data or an error.
    Structured,
    /// Requests and replies with headers of 32 bytes each and lengths of 64 bits.
    Extended,
}

impl Framing {
    /// Replies come in chunks, which can carry more than an error number.
    pub const fn has_chunks(self) -> bool {
        !matches!(self, Self::Simple)
    }

    /// Headers are extended.
    pub const fn is_extended(self) -> bool {
        matches!(self, Self::Extended)
    }
}
