//! What an array tells the daemon: events for the history, witnesses for the state directory.

use std::rc::Rc;
use std::sync::Arc;

use cairn_raid::{ArrayEvent, EventSink, Hooks, MemoryShare};
use tokio::sync::Notify;

use crate::events::{EventLog, NewEvent};
use crate::witness::WitnessDir;

/// The sink of one engine's events.
pub struct EngineEvents {
    events: EventLog,
    /// Told with every event: members may have changed.
    changed: Arc<Notify>,
}

impl EngineEvents {
    /// The hooks of an engine, made on its thread.
    pub fn hooks(
        events: EventLog,
        witness: WitnessDir,
        changed: Arc<Notify>,
        memory: MemoryShare,
    ) -> Hooks {
        Hooks {
            events: Rc::new(Self { events, changed }),
            witness: Rc::new(witness),
            memory,
        }
    }
}

impl EventSink for EngineEvents {
    fn event(&self, event: ArrayEvent) {
        self.events.record(NewEvent {
            kind: event.kind.to_string(),
            array: Some(event.array),
            disk: event.disk,
            volume: None,
            detail: event.detail,
        });
        self.changed.notify_one();
    }
}
