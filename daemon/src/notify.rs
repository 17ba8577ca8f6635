//! What the service manager is told (sd_notify): READY, RELOADING, STOPPING, the watchdog's ticks.
//!
//! Invariants
//! - Telling never waits: where the manager's queue is full, the daemon goes on with its work. A
//!   state that wasn't taken is told again, once a second, until a newer one replaces it.
//! - A tick of the watchdog that wasn't taken is dropped: the next one says the same.
//!
//! Does not know: when the daemon is in which state.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;

/// Between two attempts to tell what wasn't taken.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The way to the service manager, if there is one.
pub(crate) struct Notifier {
    manager: Option<OsString>,
    /// The state that the manager hasn't taken yet.
    owed: Mutex<Option<String>>,
}

impl Notifier {
    /// To the one that `NOTIFY_SOCKET` names.
    pub(crate) fn from_environment() -> Self {
        Self::to(std::env::var_os("NOTIFY_SOCKET"))
    }

    fn to(manager: Option<OsString>) -> Self {
        Self {
            manager,
            owed: Mutex::new(None),
        }
    }

    /// Tells a state of the daemon, now or as soon as there is room.
    pub(crate) fn tell(&self, states: &[NotifyState<'_>]) {
        let message = message(states);
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        *owed = self.send(&message).is_full().then_some(message);
    }

    /// Tells that the daemon lives, if there is room.
    pub(crate) fn tick(&self) {
        self.send(&message(&[NotifyState::Watchdog]));
    }

    /// Tells again what wasn't taken, for as long as the daemon runs.
    pub(crate) async fn keep_telling(&self) {
        let mut tick = tokio::time::interval(TELL_EVERY);
        loop {
            tick.tick().await;
            self.tell_again();
        }
    }

    fn tell_again(&self) {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(message) = owed.take_if(|message| !self.send(message).is_full()) {
            tracing::debug!(message, "the service manager has taken it at last");
        }
    }

    fn send(&self, message: &str) -> Sent {
        let Some(manager) = &self.manager else {
            return Sent::Done;
        };
        match send(manager, message) {
            Ok(()) => Sent::Done,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tracing::debug!(message, "the service manager's queue is full");
                Sent::Full
            }
            Err(error) => {
                tracing::warn!(%error, "the service manager can't be told");
                Sent::Failed
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Done,
    Full,
    /// Trying again would end the same way.
    Failed,
}

impl Sent {
    fn is_full(self) -> bool {
        self == Self::Full
    }
}

fn message(states: &[NotifyState<'_>]) -> String {
    states.iter().fold(String::new(), |mut text, state| {
        // A String takes everything.
        let _ = writeln!(text, "{state}");
        text
    })
}

/// Hands over one datagram, or fails at once.
fn send(manager: &OsStr, message: &str) -> io::Result<()> {
    let address = match manager.as_bytes().split_first() {
        // As systemd writes names that are no files.
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(manager)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    // A datagram goes whole or not at all.
    socket.send(message.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn heard(manager: &UnixDatagram) -> Option<String> {
        let mut message = [0; 256];
        let len = manager.recv(&mut message).ok()?;
        Some(String::from_utf8(message[..len].to_vec()).unwrap())
    }

    fn manager(dir: &TempDir) -> (UnixDatagram, Notifier) {
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        (manager, Notifier::to(Some(path.into_os_string())))
    }

    #[test]
    fn a_full_queue_is_not_waited_for_and_the_last_state_is_told_later() {
        let dir = TempDir::new();
        let (manager, notifier) = manager(&dir);
        // Nobody empties it: far more than any queue takes.
        for _ in 0..10_000 {
            notifier.tick();
        }
        notifier.tell(&[NotifyState::Reloading]);
        notifier.tell(&[NotifyState::Ready]);
        while let Some(text) = heard(&manager) {
            assert_eq!(text, "WATCHDOG=1\n");
        }
        notifier.tell_again();
        assert_eq!(heard(&manager).as_deref(), Some("READY=1\n"));
        notifier.tell_again();
        assert_eq!(heard(&manager), None, "told once");
    }

    #[test]
    fn states_of_one_message_stay_together() {
        let dir = TempDir::new();
        let (manager, notifier) = manager(&dir);
        notifier.tell(&[NotifyState::Reloading, NotifyState::MonotonicUsec(7)]);
        let text = "RELOADING=1\nMONOTONIC_USEC=7\n";
        assert_eq!(heard(&manager).as_deref(), Some(text));
    }

    #[test]
    fn a_manager_may_have_a_name_that_is_no_file() {
        let name = format!("cairn-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        manager.set_nonblocking(true).unwrap();
        Notifier::to(Some(format!("@{name}").into())).tell(&[NotifyState::Stopping]);
        assert_eq!(heard(&manager).as_deref(), Some("STOPPING=1\n"));
    }

    #[test]
    fn without_a_manager_or_with_a_dead_one_nothing_is_owed() {
        let dir = TempDir::new();
        let gone = dir.path().join("gone").into_os_string();
        for notifier in [Notifier::to(None), Notifier::to(Some(gone))] {
            notifier.tell(&[NotifyState::Ready]);
            assert!(notifier.owed.lock().unwrap().is_none());
        }
    }
}
