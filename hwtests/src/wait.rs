//! Waiting for a condition, with a bound that names what didn't come.

use std::time::{Duration, Instant};

/// Generous: a bound is there so that a hang is named, not to measure.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `look` finds something; panics with `what` and the last thing that `look` said.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if Instant::now() >= deadline => {
                panic!("{what} didn't come within {PATIENCE:?}: {seen}")
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}
