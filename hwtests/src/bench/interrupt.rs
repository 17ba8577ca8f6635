//! Ctrl-C and SIGTERM: the run ends early, and takes down what it has put up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, Signal};

/// Whether the run is to end. Cheap to clone and to ask.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over SIGINT, SIGTERM and SIGHUP. To be called before any thread is started. A second
    /// signal ends the process at once; the next run removes what stays behind.
    pub fn take_over() -> Result<Self, String> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals
            .thread_block()
            .map_err(|error| format!("signals can't be blocked: {error}"))?;
        let own = Self::default();
        let flag = own.clone();
        std::thread::Builder::new()
            .name("interrupt".into())
            .spawn(move || {
                while let Ok(signal) = signals.wait() {
                    if flag.0.swap(true, Ordering::Relaxed) {
                        std::process::exit(130);
                    }
                    eprintln!("{signal}: taking everything down; once more ends it at once");
                }
            })
            .map_err(|error| format!("no thread for signals: {error}"))?;
        Ok(own)
    }

    /// Whether a signal came.
    pub fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error if a signal came.
    pub fn check(&self) -> Result<(), String> {
        if self.came() {
            Err("interrupted".into())
        } else {
            Ok(())
        }
    }
}
