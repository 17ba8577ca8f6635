//! How much a test does: a little in CI, all that was promised under `sh hwtests/test.sh --full`.

/// Set by `test.sh --full`.
const FULL: &str = "CAIRN_E2E_FULL";

/// So many rounds: `some`, or `all` in a full run.
pub fn rounds(some: u32, all: u32) -> u32 {
    match std::env::var(FULL) {
        Ok(value) if value == "1" => all,
        _ => some,
    }
}

/// A number that nobody has thought of, for the moments of a run; printed so that a failure can be told.
pub fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = now.map_or(1, |now| u64::from(now.subsec_nanos()));
    println!("the seed is {seed}");
    seed
}
