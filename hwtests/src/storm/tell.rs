//! Tells one history and catches what it finds: a broken promise or an assert of the engine.

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use super::totals::Totals;
use super::world::World;

/// What is wrong, and where it was noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The reason.
    pub what: String,
    /// The last things that the array told before.
    pub told: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        for line in &self.told {
            write!(f, "\n  told before: {line}")?;
        }
        Ok(())
    }
}

/// How a history went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What was done.
    pub totals: Totals,
    /// Of everything that happened.
    pub hash: u64,
    /// What is wrong, if anything is.
    pub finding: Option<Finding>,
}

thread_local! {
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
    static CATCHING: RefCell<bool> = const { RefCell::new(false) };
}

/// Panics of histories are kept, not printed; all others go their way.
fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |info| {
            if CATCHING.with_borrow(|catching| *catching) {
                CAUGHT.set(Some(info.to_string()));
            } else {
                others(info);
            }
        }));
    });
}

/// Tells `story` in `world`.
pub fn tell(mut world: World, story: impl FnOnce(&mut World)) -> Told {
    install_hook();
    CATCHING.set(true);
    let ended = catch_unwind(AssertUnwindSafe(|| story(&mut world)));
    CATCHING.set(false);
    let finding = ended.err().map(|_| Finding {
        what: CAUGHT.take().unwrap_or_else(|| "a panic".into()),
        told: world.told(),
    });
    Told {
        totals: world.totals(),
        hash: world.log.hash(),
        finding,
    }
}
