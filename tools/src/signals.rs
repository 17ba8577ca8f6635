//! Signals that end what runs in the foreground, in good order.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::ToolError;

/// From here on none of them ends the process by itself.
pub(crate) struct Ending {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Ending {
    pub(crate) fn listen() -> Result<Self, ToolError> {
        let listen = |kind| {
            let refused =
                |error| ToolError::failed(format!("signals can't be listened to: {error}"));
            signal(kind).map_err(refused)
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for one; says what happened.
    pub(crate) async fn come(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "terminated",
            _ = self.hangup.recv() => "the terminal is gone",
        }
    }
}
