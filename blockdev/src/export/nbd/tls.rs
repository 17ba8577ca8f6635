//! Whether and with what certificate a listener's connections are encrypted.

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;

use super::handshake::Encryption;

/// TLS of one listener.
#[derive(Clone, Default)]
pub enum Tls {
    /// There is none.
    #[default]
    Unavailable,
    /// Clients may start it.
    Offered(Arc<ServerConfig>),
    /// Clients must start it.
    Required(Arc<ServerConfig>),
}

impl Tls {
    /// What a negotiation on a fresh connection goes by.
    pub(crate) const fn encryption(&self) -> Encryption {
        match self {
            Self::Unavailable => Encryption::Unavailable,
            Self::Offered(_) => Encryption::Offered,
            Self::Required(_) => Encryption::Required,
        }
    }

    pub(crate) fn config(self) -> Option<Arc<ServerConfig>> {
        match self {
            Self::Unavailable => None,
            Self::Offered(config) | Self::Required(config) => Some(config),
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.encryption().fmt(f)
    }
}
