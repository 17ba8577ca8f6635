//! What arrays and volumes may be called.
//!
//! Names stand in URLs, socket file names, NBD export names and shell lines, so they are kept to
//! characters that need quoting in none of these.

/// Longest name in bytes: the label's name field.
pub const NAME_BYTES_MAX: usize = 48;

/// Checks a name for an array or a volume; the error says what is wrong and what is allowed.
///
/// Allowed: 1 to [`NAME_BYTES_MAX`] of `A-Z a-z 0-9 . _ -`, the first a letter or a digit.
pub fn validate_name(name: &str) -> Result<(), String> {
    let allowed = format!(
        "a name has 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . _ - and begins with a letter or a digit"
    );
    if name.is_empty() {
        return Err(format!("the name is empty; {allowed}"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!(
            "the name {name:?} has {} bytes; {allowed}",
            name.len()
        ));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(format!(
            "the name {name:?} begins with a character that isn't a letter or a digit; {allowed}"
        ));
    }
    match name
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')))
    {
        Some(bad) => Err(format!("the name {name:?} contains {bad:?}; {allowed}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_need_quoting_are_refused() {
        for bad in ["", "-x", ".x", "a b", "a/b", "a?b", "ä", &"x".repeat(49)] {
            assert!(validate_name(bad).is_err(), "{bad:?}");
        }
        for good in ["pg", "pool-1", "0", "a.b_c", &"x".repeat(48)] {
            assert!(validate_name(good).is_ok(), "{good:?}");
        }
    }
}
