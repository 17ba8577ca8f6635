//! When a certificate is valid: the one thing of X.509 that is looked at here, because a server with
//! an expired certificate starts well and then turns away every client.
//!
//! ```text
//! Certificate = SEQ { tbsCertificate = SEQ { [0] version?, serial, algorithm = SEQ, issuer = SEQ,
//!                                            validity = SEQ { notBefore, notAfter }, … }, … }
//! ```

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// From when to when, both as `YYYYMMDDHHMMSS` in UTC: texts that sort as times do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: String,
    pub(super) not_after: String,
}

/// The validity of a certificate in DER; `None` if it isn't one.
pub(super) fn validity(certificate: &[u8]) -> Option<Validity> {
    let mut certificate = Der(certificate).expect(SEQUENCE)?;
    let mut fields = certificate.expect(SEQUENCE)?;
    if fields.0.first() == Some(&VERSION) {
        fields.next()?;
    }
    fields.expect(INTEGER)?;
    fields.expect(SEQUENCE)?;
    fields.expect(SEQUENCE)?;
    let mut validity = fields.expect(SEQUENCE)?;
    Some(Validity {
        not_before: validity.time()?,
        not_after: validity.time()?,
    })
}

/// What is left of a piece of DER.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The tag and content of the next value.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let len = if first < 0x80 {
            usize::from(first)
        } else {
            let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
            rest = after;
            if digits.len() > 4 {
                return None;
            }
            let shift = |len: usize, &digit: &u8| (len << 8) | usize::from(digit);
            digits.iter().fold(0, shift)
        };
        let (content, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn expect(&mut self, tag: u8) -> Option<Der<'a>> {
        let (found, content) = self.next()?;
        (found == tag).then_some(Der(content))
    }

    fn time(&mut self) -> Option<String> {
        let (tag, content) = self.next()?;
        let digits = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        match (tag, digits.len()) {
            (GENERALIZED_TIME, 14) => Some(digits.to_owned()),
            // RFC 5280: two digits from 50 on are of the last century.
            (UTC_TIME, 12) if digits >= "50" => Some(format!("19{digits}")),
            (UTC_TIME, 12) => Some(format!("20{digits}")),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let len = u8::try_from(content.len()).unwrap();
        let mut bytes = vec![tag];
        if len >= 0x80 {
            bytes.push(0x81);
        }
        bytes.push(len);
        bytes.extend(content);
        bytes
    }

    fn certificate(times: &[u8]) -> Vec<u8> {
        let fields = [
            der(VERSION, &der(INTEGER, &[2])),
            der(INTEGER, &[7]),
            der(SEQUENCE, b"algorithm"),
            der(SEQUENCE, &[0; 90]),
            der(SEQUENCE, times),
        ];
        der(SEQUENCE, &der(SEQUENCE, &fields.concat()))
    }

    #[test]
    fn both_kinds_of_times_are_read() {
        let times = [
            der(UTC_TIME, b"991231235959Z"),
            der(GENERALIZED_TIME, b"20500101000000Z"),
        ];
        assert_eq!(
            validity(&certificate(&times.concat())),
            Some(Validity {
                not_before: "19991231235959".into(),
                not_after: "20500101000000".into(),
            })
        );
        let times = [
            der(UTC_TIME, b"260101000000Z"),
            der(UTC_TIME, b"2601010000Z"),
        ];
        assert_eq!(validity(&certificate(&times.concat())), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_certificate_or_none(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            byte: u8,
        ) {
            validity(&bytes);
            let times = [der(UTC_TIME, b"260101000000Z"), der(UTC_TIME, b"270101000000Z")];
            let mut nearly = certificate(&times.concat());
            let at = at.index(nearly.len());
            nearly[at] = byte;
            validity(&nearly);
        }
    }
}
