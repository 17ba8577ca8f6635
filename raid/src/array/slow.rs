//! What an array does about disks that are slow, hang, or were thrown out with operations still on
//! their way.
//!
//! A disk is *slow* while it owes an answer for longer than the first deadline: reads are planned
//! around it where redundancy allows ([`RowView`](crate::stripe::view::RowView)). Past the second it
//! is thrown out. It comes back only when all that it was ever asked has ended: a write that lands
//! after that would corrupt it (fault D13).

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use uuid::Uuid;

use super::Array;
use super::flights::{Deadlines, Flights, Seen};
use crate::error::RaidError;
use crate::events::EventKind;

/// A disk that the array has asked something which isn't answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// Where the disk was opened.
    pub path: String,
    /// Which disk it was, as far as that is known.
    pub member: Option<Uuid>,
    /// Operations on their way.
    pub operations: usize,
}

impl Unanswered {
    fn of(flights: &Flights) -> Self {
        Self {
            path: flights.path().to_string(),
            member: flights.member(),
            operations: flights.in_flight(),
        }
    }
}

impl Array {
    /// Sets how long disks are waited for.
    pub fn set_deadlines(&self, deadlines: Deadlines) {
        self.watch.set_deadlines(deadlines);
    }

    /// What the disk at `path`, in the array or thrown out of it, still owes an answer to. It must
    /// not be opened anew before that is `None`.
    pub fn unanswered(&self, path: &str) -> Option<Unanswered> {
        let flights = self.watch.unfinished(path, None)?;
        Some(Unanswered::of(&flights))
    }

    /// Disks that take no part and still owe answers: a look at one of them might never end.
    pub fn awaited(&self) -> Vec<Unanswered> {
        let live = self.ledger.borrow().live();
        let takes_part = |flights: &Rc<Flights>| {
            let mut live = live.iter();
            live.any(|disk| Rc::ptr_eq(disk.flights(), flights))
        };
        let busy = self.watch.busy().into_iter();
        let out = busy.filter(|flights| !takes_part(flights));
        out.map(|flights| Unanswered::of(&flights)).collect()
    }

    /// Waits until the disk at `path` has ended all that it was asked.
    pub fn quiet<'a>(&'a self, path: &'a str) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            while let Some(flights) = self.watch.unfinished(path, None) {
                flights.quiet().await;
            }
        })
    }

    /// Waits for ordinary operations of a disk that was in use; refuses if it doesn't answer.
    pub(super) async fn settled_disk(
        &self,
        path: &str,
        member: Option<Uuid>,
    ) -> Result<(), RaidError> {
        while let Some(flights) = self.watch.unfinished(path, member) {
            if !flights.settled().await {
                return Err(RaidError::Unanswered {
                    disk: path.to_owned(),
                    array: self.name.to_string(),
                    operations: flights.in_flight(),
                });
            }
        }
        Ok(())
    }

    /// The watch has looked at a disk.
    pub(super) fn disk_seen(self: &Rc<Self>, flights: &Rc<Flights>, seen: Seen) {
        let path = Some(&**flights.path());
        match seen {
            Seen::Nothing => {}
            Seen::Slow(what) => self.report(
                EventKind::DiskSlow,
                path,
                format!("no answer to {what} yet: reads go around the disk where they can"),
            ),
            Seen::Answers => {
                self.report(EventKind::DiskAnswers, path, "it is used again".into());
            }
            Seen::Quiet => self.report(
                EventKind::DiskAnswers,
                path,
                "all that it was asked has ended: it may be added again".into(),
            ),
            Seen::Hung(why) => {
                let live = self.ledger.borrow().live();
                let found = live
                    .into_iter()
                    .find(|disk| Rc::ptr_eq(disk.flights(), flights));
                if let Some(disk) = found {
                    self.throw_out(&disk, &why);
                }
            }
        }
    }
}
