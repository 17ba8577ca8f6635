//! Letting others go first, without a timer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Completes when the executor comes round to this task again.
#[derive(Default)]
pub(crate) struct Turn {
    passed: bool,
}

impl Future for Turn {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.passed {
            return Poll::Ready(());
        }
        self.passed = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
