//! The connections of one listener or one export: how many there are, and how to end them.
//!
//! Invariants
//! - A connection is counted from [`Connections::enter`] until its last request has left the device.
//! - Once stopped, a set stays stopped.
//! - A new connection's requests begin after those of every connection that ended before it.

use std::fmt;
use std::rc::Rc;

use tokio::sync::watch;

/// How connections are told to end. Either way requests that were admitted are finished and
/// answered first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The server comes back: what arrives now is left unanswered, so that a client that reconnects
    /// sends it again instead of showing an error to its user.
    Restart,
    /// The export goes away for good: what arrives now is answered with ESHUTDOWN.
    Unexport,
}

struct Inner {
    count: watch::Sender<usize>,
    leaving: watch::Sender<usize>,
    stop: watch::Sender<Option<Stop>>,
}

/// A set of connections; clones are the same set.
#[derive(Clone)]
pub struct Connections(Rc<Inner>);

/// A connection's membership in a set, ended by dropping it.
#[derive(Debug)]
pub struct Entered(Connections);

/// The end of a connection, from its last request read to its last request done.
#[derive(Debug)]
pub(crate) struct Leaving(Connections);

impl Connections {
    /// An empty set.
    pub fn new() -> Self {
        Self(Rc::new(Inner {
            count: watch::Sender::new(0),
            leaving: watch::Sender::new(0),
            stop: watch::Sender::new(None),
        }))
    }

    /// Whether the two are handles of one set.
    pub fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Connections in the set.
    pub fn count(&self) -> usize {
        *self.0.count.borrow()
    }

    /// Adds a connection.
    pub fn enter(&self) -> Entered {
        self.0.count.send_modify(|count| *count += 1);
        Entered(self.clone())
    }

    /// Notes that a connection reads no more requests while some of its own may be under way.
    pub(crate) fn leave(&self) -> Leaving {
        self.0.leaving.send_modify(|leaving| *leaving += 1);
        Leaving(self.clone())
    }

    /// Waits until no request of a connection that has ended is under way.
    ///
    /// A client that lost its connection repeats on the next what wasn't answered, and goes on from
    /// there: what the lost one still carries must not land after that.
    pub(crate) async fn left(&self) {
        // As for `drained`.
        let none = |leaving: &usize| *leaving == 0;
        let _ = self.0.leaving.subscribe().wait_for(none).await;
    }

    /// Tells all connections, and those to come, to end. The first call decides how.
    pub fn stop(&self, how: Stop) {
        self.0.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            stop.get_or_insert(how);
            first
        });
    }

    /// How the set was stopped, if it was.
    pub fn stopping(&self) -> Option<Stop> {
        *self.0.stop.borrow()
    }

    /// Waits for [`Connections::stop`].
    pub async fn stopped(&self) -> Stop {
        let mut stop = self.0.stop.subscribe();
        loop {
            if let Some(how) = *stop.borrow_and_update() {
                return how;
            }
            if stop.changed().await.is_err() {
                // The sender lives in `self`, so this can't be; waiting on is the safe answer.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the set is empty.
    pub async fn drained(&self) {
        // An error means that the sender is gone, and with it every connection.
        let _ = self.0.count.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.count.send_modify(|count| *count -= 1);
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.0.leaving.send_modify(|leaving| *leaving -= 1);
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("count", &self.count())
            .field("stopping", &self.stopping())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Sim;

    #[test]
    fn a_set_is_drained_when_its_last_member_leaves() {
        let sim = Sim::new(1);
        let set = Connections::new();
        let (one, two) = (set.enter(), set.enter());
        assert_eq!(set.count(), 2);
        drop(one);
        sim.env().spawn.spawn(Box::pin(async move { drop(two) }));
        sim.block_on(set.drained());
        assert_eq!(set.count(), 0);
    }

    #[test]
    fn the_first_stop_decides() {
        let set = Connections::new();
        set.stop(Stop::Unexport);
        set.stop(Stop::Restart);
        assert_eq!(Sim::new(1).block_on(set.stopped()), Stop::Unexport);
    }
}
