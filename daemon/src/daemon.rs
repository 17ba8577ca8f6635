//! The daemon's life: start, signals, stop.
//!
//! Order at the start: umask, state directory and its lock, metadata store, admin socket, arrays in the
//! background, READY when each of them is decided. At the stop: no more requests, arrays stopped
//! cleanly, the last events written.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairn_blockdev::LocalFuture;
use nix::sys::stat::{Mode, umask};
use sd_notify::NotifyState;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::error::DaemonError;
use crate::events::NewEvent;
use crate::inherited::Inherited;
use crate::notify::Notifier;
use crate::socket::listen;
use crate::statedir::StateDir;
use crate::supervisor::Supervisor;

/// Requests under way at the stop get this long; long polls are cut.
const REQUESTS_TIMEOUT: Duration = Duration::from_secs(5);

/// Changes the log's filter of a running daemon.
pub type SetLog = Box<dyn Fn(&str) -> Result<(), String> + Send>;

/// Where the settings come from, to be read again on SIGHUP.
#[derive(Debug, Clone)]
pub struct ConfigSource {
    /// The file; without one, `state_dir` with all defaults.
    pub file: Option<PathBuf>,
    /// The command line's.
    pub state_dir: Option<PathBuf>,
}

impl ConfigSource {
    /// Reads and checks the settings.
    pub fn load(&self) -> Result<Config, DaemonError> {
        match (&self.file, &self.state_dir) {
            (Some(file), state_dir) => Config::load(file, state_dir.as_deref()),
            (None, Some(state_dir)) => Config::for_state_dir(state_dir),
            (None, None) => Config::load(crate::config::DEFAULT_PATH.as_ref(), None),
        }
    }
}

/// Runs until SIGTERM or SIGINT. Boxed: compiled here, once, and not in every program that runs it.
pub fn run(
    source: ConfigSource,
    config: Config,
    set_log: SetLog,
    inherited: Inherited,
) -> LocalFuture<Result<(), DaemonError>> {
    Box::pin(async move {
        // Whatever the daemon makes, sockets above all, is for its own user alone.
        umask(Mode::from_bits_truncate(0o077));
        let mut signals = Signals::new()?;
        let state = StateDir::open(&config.state_dir)?;
        let (listener, _socket_file) =
            listen(&config.socket).map_err(|message| DaemonError::Socket {
                path: config.socket.clone(),
                message,
            })?;
        let listener = UnixListener::from_std(listener).map_err(|error| DaemonError::System {
            what: "watching the admin socket".into(),
            error,
        })?;
        let socket = config.socket.clone();
        let supervisor = Supervisor::open(config, state, inherited).await?;
        supervisor
            .events()
            .record(NewEvent::new("DaemonStarted", "cairnd started"));

        let behind = tokio::spawn(write_events_behind(Arc::clone(&supervisor)));
        let keeper = tokio::spawn(Arc::clone(&supervisor).keep_records());
        let scrubs = tokio::spawn(Arc::clone(&supervisor).keep_scrubs());
        let members = tokio::spawn(Arc::clone(&supervisor).keep_members());
        let pool = tokio::spawn(Arc::clone(&supervisor).keep_pool());
        let work = tokio::spawn(Arc::clone(&supervisor).keep_work());
        let notifier = Arc::new(Notifier::from_environment());
        let watchdog = tokio::spawn(watchdog(Arc::clone(&supervisor), Arc::clone(&notifier)));
        let telling = {
            let notifier = Arc::clone(&notifier);
            tokio::spawn(async move { notifier.keep_telling().await })
        };
        let (close, closed) = tokio::sync::oneshot::channel::<()>();
        let router = crate::api::router(Arc::clone(&supervisor));
        let server = tokio::spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(async {
                // Both a word and a dropped sender mean the end.
                drop(closed.await);
            });
            served.await
        });
        tracing::info!(socket = %socket.display(), "administered here");

        let is_ready = Arc::new(AtomicBool::new(false));
        let assembling = {
            let (supervisor, is_ready) = (Arc::clone(&supervisor), Arc::clone(&is_ready));
            let notifier = Arc::clone(&notifier);
            tokio::spawn(async move {
                if supervisor.assemble_all().await {
                    is_ready.store(true, Ordering::SeqCst);
                    tracing::info!("ready");
                    notifier.tell(&[NotifyState::Ready]);
                }
            })
        };

        loop {
            match signals.next().await {
                Wish::Reload => {
                    // A daemon that is still starting its arrays has another READY to send.
                    let tell = is_ready.load(Ordering::SeqCst);
                    if tell {
                        tell_reloading(&notifier);
                    }
                    reload(&source, &supervisor, &set_log);
                    if tell {
                        notifier.tell(&[NotifyState::Ready]);
                    }
                }
                Wish::Stop(name) => {
                    tracing::info!("{name}: stopping");
                    break;
                }
            }
        }
        notifier.tell(&[NotifyState::Stopping]);
        // A graceful stop of the server would wait for long polls; changes get their time below.
        // The receiver may have ended with its server.
        let _ = close.send(());
        supervisor.shut_down().await;
        server.abort();
        // Not before: an array that was being started is stopped cleanly above.
        for task in [
            assembling, behind, keeper, scrubs, members, pool, work, watchdog, telling,
        ] {
            task.abort();
        }
        if tokio::time::timeout(REQUESTS_TIMEOUT, server)
            .await
            .is_err()
        {
            tracing::debug!("requests were cut");
        }
        tracing::info!("stopped");
        Ok(())
    })
}

fn reload(source: &ConfigSource, supervisor: &Supervisor, set_log: &SetLog) {
    let old = supervisor.config();
    match source.load() {
        Err(error) => {
            tracing::error!("the new configuration is refused, the old one stays: {error}");
        }
        Ok(new) => {
            let restart = old.needs_restart(&new);
            if restart.is_empty() {
                let log = new.log.clone();
                if let Err(error) = supervisor.set_config(new) {
                    tracing::error!("the new configuration is refused, the old one stays: {error}");
                    return;
                }
                if let Err(error) = set_log(&log) {
                    tracing::error!("the log filter stays: {error}");
                }
                tracing::info!("the configuration was reloaded");
            } else {
                tracing::error!(
                    "the new configuration is refused, the old one stays: {} can only change by a \
                     restart",
                    restart.join(" and ")
                );
            }
        }
    }
}

/// Keeps the event history on disk; the verdict says so once that fails.
async fn write_events_behind(supervisor: Arc<Supervisor>) {
    let store = supervisor.store();
    let error = supervisor.events().persist_behind(store.as_ref()).await;
    supervisor.store_failed(&format!(
        "events are kept in memory only since the state directory took no write: {error}"
    ));
}

fn tell_reloading(notifier: &Notifier) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notifier.tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no monotonic time for the service manager"),
    }
}

/// Feeds systemd's watchdog for as long as the daemon can describe itself.
async fn watchdog(supervisor: Arc<Supervisor>, notifier: Arc<Notifier>) {
    let Some(period) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut tick = tokio::time::interval(period / 2);
    loop {
        tick.tick().await;
        // Goes through the locks and the runtime that requests go through.
        supervisor.version();
        notifier.tick();
    }
}

enum Wish {
    Reload,
    Stop(&'static str),
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self, DaemonError> {
        let watch = |kind| {
            signal(kind).map_err(|error| DaemonError::System {
                what: "watching signals".into(),
                error,
            })
        };
        Ok(Self {
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
            hang_up: watch(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Wish::Stop("SIGINT"),
            _ = self.hang_up.recv() => Wish::Reload,
        }
    }
}
