//! The settings of TLS for NBD exports.

use std::path::PathBuf;

use toml::Spanned;

use super::{At, RawNbd, absolute};
use crate::error::DaemonError;

/// Which files TLS of NBD exports is made from, and who must speak it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// The server's certificate and what leads from it to its authority, in PEM.
    pub certificate: PathBuf,
    /// The certificate's private key, in PEM.
    pub key: PathBuf,
    /// Authorities of clients' certificates, in PEM: with it clients must show one.
    pub client_ca: Option<PathBuf>,
    /// Required on loopback addresses too. On others it always is.
    pub required: bool,
}

/// Takes the settings out of their table.
pub(super) fn tls(raw: &RawNbd, at: At<'_>) -> Result<Option<TlsConfig>, DaemonError> {
    let path = |value: &Spanned<PathBuf>| absolute(value).map_err(|m| at(Some(value.span()), &m));
    let without_certificate = [
        raw.tls_key
            .as_ref()
            .map(|value| (value.span(), "nbd.tls_key")),
        raw.tls_client_ca
            .as_ref()
            .map(|value| (value.span(), "nbd.tls_client_ca")),
        raw.tls_required
            .as_ref()
            .filter(|value| *value.get_ref())
            .map(|value| (value.span(), "nbd.tls_required")),
    ];
    let Some(certificate) = &raw.tls_certificate else {
        return match without_certificate.into_iter().flatten().next() {
            None => Ok(None),
            Some((span, name)) => {
                let message = format!("{name} is of no use without nbd.tls_certificate");
                Err(at(Some(span), &message))
            }
        };
    };
    let Some(key) = &raw.tls_key else {
        return Err(at(
            Some(certificate.span()),
            "nbd.tls_certificate wants nbd.tls_key, the file with its private key",
        ));
    };
    Ok(Some(TlsConfig {
        certificate: path(certificate)?,
        key: path(key)?,
        client_ca: raw.tls_client_ca.as_ref().map(path).transpose()?,
        required: raw.tls_required.as_ref().is_some_and(|r| *r.get_ref()),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    #[test]
    fn tls_is_all_or_nothing() {
        let parse = |text: &str| Config::parse("cairnd.toml", text, None);
        let text = "[nbd]\ntls_certificate = '/t/c.pem'\ntls_key = '/t/k.pem'\n";
        let tls = parse(text).unwrap().nbd_tls.unwrap();
        assert!(!tls.required && tls.client_ca.is_none());
        assert_eq!(tls.key, std::path::Path::new("/t/k.pem"));
        assert_eq!(
            parse("[nbd]\ntls_required = false\n").unwrap().nbd_tls,
            None
        );
        for (text, expected) in [
            (
                "[nbd]\ntls_certificate = '/t/c.pem'\n",
                "cairnd.toml:2:19: nbd.tls_certificate wants nbd.tls_key",
            ),
            (
                "[nbd]\n\ntls_key = '/t/k.pem'\n",
                "cairnd.toml:3:11: nbd.tls_key is of no use",
            ),
            (
                "[nbd]\ntls_client_ca = '/t/k.pem'\n",
                "cairnd.toml:2:17: nbd.tls_client_ca is of no use",
            ),
            (
                "[nbd]\ntls_required = true\n",
                "cairnd.toml:2:16: nbd.tls_required is of no use",
            ),
            (
                "[nbd]\ntls_certificate = '/c'\ntls_key = 'k'\n",
                "cairnd.toml:3:11: `k` is relative",
            ),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{text:?} gave {message:?}");
        }
    }
}
