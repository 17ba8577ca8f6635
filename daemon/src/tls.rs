//! TLS of NBD exports: certificates from their files, and who must speak it.
//!
//! Invariants
//! - TCP beyond loopback is never served without TLS.
//! - Files that can't be used leave what was loaded before in place, and never keep an array from
//!   starting: only exports that need TLS fail, each with the reason.
//! - What is loaded anew serves new connections; those that are open go on.

mod validity;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use cairn_api::NbdAddress;
use cairn_blockdev::export::nbd::Tls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use self::validity::Validity;
use crate::config::{FILE_MAX_BYTES, TlsConfig};

/// TLS as exports find it when a client comes; clones are the same.
#[derive(Clone, Default)]
pub struct TlsShelf(Arc<RwLock<Shelf>>);

#[derive(Default)]
struct Shelf {
    required: bool,
    state: State,
}

#[derive(Clone, Default)]
enum State {
    /// None is configured.
    #[default]
    Unset,
    Loaded(Arc<ServerConfig>),
    /// It is configured, and can't be used.
    Failed(String),
}

impl TlsShelf {
    /// What a daemon starts with: files that can't be used are told about, and wanted later.
    pub fn open(config: Option<&TlsConfig>) -> Self {
        let shelf = Self::default();
        if let Err(why) = shelf.reload(config)
            && let Some(config) = config
        {
            tracing::error!("NBD exports that need TLS fail: {why}");
            shelf.set(config.required, State::Failed(why));
        }
        shelf
    }

    /// Takes over what the configuration says now; on failure, a sentence that names the file,
    /// everything stays.
    pub fn reload(&self, config: Option<&TlsConfig>) -> Result<(), String> {
        match config {
            None => self.set(false, State::Unset),
            Some(config) => {
                let (loaded, warnings) = load(config)?;
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                self.set(config.required, State::Loaded(loaded));
            }
        }
        Ok(())
    }

    fn set(&self, required: bool, state: State) {
        let mut shelf = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *shelf = Shelf { required, state };
    }

    /// What a client at this address gets; the error says why it can't be served.
    pub fn at(&self, address: &NbdAddress) -> Result<Tls, String> {
        let shelf = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let required = is_remote(address) || (shelf.required && is_tcp(address));
        match (&shelf.state, required) {
            (State::Loaded(config), true) => Ok(Tls::Required(Arc::clone(config))),
            (State::Loaded(config), false) => Ok(Tls::Offered(Arc::clone(config))),
            (State::Unset | State::Failed(_), false) => Ok(Tls::Unavailable),
            (State::Failed(why), true) => Err(format!(
                "{address} wants TLS, which can't be used: {why}. Put it right, reload the daemon \
                 (SIGHUP) and export again"
            )),
            (State::Unset, true) => Err(format!(
                "{address} is no loopback address: NBD without TLS shows and takes the volume's \
                 data in the clear. Set nbd.tls_certificate and nbd.tls_key in the configuration, or \
                 use tcp:127.0.0.1:PORT or a unix socket"
            )),
        }
    }

    /// Whether clients at this address must speak TLS.
    pub fn is_required(&self, address: &NbdAddress) -> bool {
        matches!(self.at(address), Err(_) | Ok(Tls::Required(_)))
    }
}

fn is_tcp(address: &NbdAddress) -> bool {
    matches!(address, NbdAddress::Tcp(_))
}

fn is_remote(address: &NbdAddress) -> bool {
    matches!(address, NbdAddress::Tcp(address) if !address.ip().is_loopback())
}

/// Reads and checks the files; what is left out of them and can be done without. The error is a sentence that
/// names the one that is wrong.
pub fn load(config: &TlsConfig) -> Result<(Arc<ServerConfig>, Vec<String>), String> {
    let mut warnings = Vec::new();
    let now = now();
    let certificates = certificates(&config.certificate)?;
    for (_, validity) in &certificates {
        in_time(&config.certificate, validity, &now)?;
    }
    let certificates = certificates.into_iter().map(|(it, _)| it).collect();
    let key_text = read(&config.key)?;
    let key = PrivateKeyDer::from_pem_slice(&key_text).map_err(|error| {
        let path = config.key.display();
        format!("{path}: holds no private key in PEM that can be read without a password ({error})")
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let unusable = |error: &dyn std::fmt::Display| {
                format!(
                    "{}: can't be used as clients' authority: {error}",
                    path.display()
                )
            };
            let mut roots = RootCertStore::empty();
            let mut first_wrong = None;
            for (certificate, validity) in self::certificates(path)? {
                // One of several authorities that is over has a successor in the same file. It isn't believed: rustls
                // doesn't look at the dates of whom it is told to believe.
                if let Err(why) = in_time(path, &validity, &now) {
                    warnings.push(format!("{why}: no client is believed for its sake"));
                    first_wrong.get_or_insert(why);
                    continue;
                }
                roots.add(certificate).map_err(|error| unusable(&error))?;
            }
            if let (true, Some(why)) = (roots.is_empty(), first_wrong) {
                return Err(why);
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(|error| unusable(&error))?)
        }
    };
    let config = builder
        .with_single_cert(certificates, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => format!(
                "{}: isn't the private key of the certificate in {}",
                config.key.display(),
                config.certificate.display()
            ),
            error => format!(
                "{} with {}: {error}",
                config.certificate.display(),
                config.key.display()
            ),
        })?;
    Ok((Arc::new(config), warnings))
}

/// The certificates in a file, at least one, and when they are valid.
fn certificates(path: &Path) -> Result<Vec<(CertificateDer<'static>, Validity)>, String> {
    let text = read(path)?;
    let shown = path.display();
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{shown}: is malformed PEM: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("{shown}: holds no certificate in PEM"));
    }
    certificates
        .into_iter()
        .map(|certificate| match validity::validity(&certificate) {
            Some(validity) => Ok((certificate, validity)),
            None => Err(format!("{shown}: holds something that is no certificate")),
        })
        .collect()
}

/// As certificates have it: `20261231235959`, in UTC.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y%m%d%H%M%S").to_string()
}

/// Whether a certificate from that file is valid now; the error says why not.
fn in_time(path: &Path, validity: &Validity, now: &str) -> Result<(), String> {
    let shown = path.display();
    if validity.not_after.as_str() < now {
        return Err(format!(
            "{shown}: the certificate expired at {}",
            for_people(&validity.not_after)
        ));
    }
    if validity.not_before.as_str() > now {
        return Err(format!(
            "{shown}: the certificate is valid only from {} on",
            for_people(&validity.not_before)
        ));
    }
    Ok(())
}

/// `20261231235959` as `2026-12-31 23:59:59 UTC`.
fn for_people(time: &str) -> String {
    let part = |from, to| time.get(from..to).unwrap_or_default();
    let (date, clock) = (
        [part(0, 4), part(4, 6), part(6, 8)].join("-"),
        [part(8, 10), part(10, 12), part(12, 14)].join(":"),
    );
    format!("{date} {clock} UTC")
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let size = std::fs::metadata(path).map_err(|error| unreadable(&error))?;
    if size.len() > FILE_MAX_BYTES {
        return Err(unreadable(&"is far too large to be a certificate or a key"));
    }
    std::fs::read(path).map_err(|error| unreadable(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn only_loopback_is_served_without_tls() {
        let shelf = TlsShelf::default();
        for good in [
            "tcp:127.0.0.1:10809",
            "tcp:127.8.9.1:1",
            "tcp:[::1]:10809",
            "unix:/s",
        ] {
            let address = good.parse().unwrap();
            assert!(matches!(shelf.at(&address), Ok(Tls::Unavailable)), "{good}");
        }
        for bad in ["tcp:0.0.0.0:10809", "tcp:10.0.0.1:10809", "tcp:[::]:10809"] {
            let error = shelf.at(&bad.parse().unwrap()).unwrap_err();
            assert!(error.contains("tls_certificate"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_and_fails_only_who_needs_it() {
        let dir = TempDir::new();
        let (certificate, key) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
        let config = TlsConfig {
            certificate: certificate.clone(),
            key,
            client_ca: None,
            required: false,
        };
        let error = load(&config).unwrap_err();
        assert!(error.contains("c.pem: No such file"), "{error}");
        std::fs::write(&certificate, "nothing").unwrap();
        let error = load(&config).unwrap_err();
        assert!(error.contains("c.pem: holds no certificate"), "{error}");
        let shelf = TlsShelf::open(Some(&config));
        let at = |text: &str| shelf.at(&text.parse().unwrap());
        assert!(at("tcp:127.0.0.1:1").is_ok() && at("unix:/s").is_ok());
        assert!(at("tcp:10.0.0.1:1").unwrap_err().contains("c.pem"));
        assert!(shelf.reload(Some(&config)).is_err());
    }
}
