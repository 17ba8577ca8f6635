//! The command line of cairnd.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use cairn_blockdev::export::ublk;
use cairnd::daemon::{ConfigSource, SetLog, run};
use cairnd::engine::THREAD_NAME;
use cairnd::error::DaemonError;
use cairnd::inherited::Inherited;
use clap::Parser;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

/// Longest wait at the end for threads that hang in the system.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// The Cairn storage daemon: RAID arrays over local disks, thin volumes over NBD.
///
/// It runs in the foreground, finds its arrays by the labels on their disks, brings back exports, and
/// is administered with `cairn` over a unix socket. SIGTERM and SIGINT stop it cleanly, SIGHUP reloads
/// the configuration.
#[derive(Parser)]
#[command(
    name = "cairnd",
    version,
    after_help = "Examples:\n  \
        cairnd                          with /etc/cairn/cairnd.toml, as systemd starts it\n  \
        cairnd --state-dir /tmp/cairn   all defaults, as any user; then\n  \
        CAIRN_SOCKET=/tmp/cairn/cairnd.sock cairn status\n  \
        cairnd --config x.toml --check-config\n\n\
        Environment:\n  \
        CAIRN_IO=auto|io_uring|threads  how disks are reached; auto takes io_uring where it may\n\n\
        Exit codes: 0 stopped as asked, 1 couldn't start or run."
)]
struct Arguments {
    /// The configuration file. Without it and without --state-dir: /etc/cairn/cairnd.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where the lock, exports, hints, events and the admin socket (cairnd.sock) are. Overrides the
    /// file's state_dir; without --config every other setting has its default
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Check the configuration, say what is wrong with it, and exit
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cairnd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> Result<(), DaemonError> {
    let state_dir = arguments.state_dir.map(std::path::absolute).transpose();
    let source = ConfigSource {
        file: arguments.config,
        state_dir: state_dir.map_err(|error| DaemonError::System {
            what: "--state-dir".into(),
            error,
        })?,
    };
    let config = source.load()?;
    if arguments.check_config {
        if let Some(tls) = &config.nbd_tls {
            let (_, warnings) = cairnd::tls::load(tls).map_err(|message| DaemonError::Config {
                place: "nbd".into(),
                message,
            })?;
            for warning in warnings {
                eprintln!("warning: {warning}");
            }
        }
        println!("the configuration is valid");
        return Ok(());
    }
    let set_log = start_log(&config.log)?;
    // Before the first thread: all of them inherit it.
    prepare_for_short_memory();
    abort_on_engine_panic();
    // Before anything else opens descriptors.
    let inherited = Inherited::take().map_err(|message| DaemonError::System {
        what: "socket activation".into(),
        error: std::io::Error::other(message),
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The admin API alone: arrays have threads of their own.
        .worker_threads(2)
        .thread_name("cairn-admin")
        .enable_all()
        .build()
        .map_err(|error| DaemonError::System {
            what: "starting threads".into(),
            error,
        })?;
    let ended = runtime.block_on(run(source, config, set_log, inherited));
    // A dead network mount that df asked must not keep a stopped daemon alive.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    ended
}

/// A file system of this host may lie on one of the daemon's own volumes: when memory is short, no
/// thread may wait for it, neither in an allocation nor for a page of the program.
fn prepare_for_short_memory() {
    if let Err(error) = ublk::promise_to_write() {
        tracing::info!(
            "the kernel may make the daemon wait for its own volumes when memory is short \
             (PR_SET_IO_FLUSHER: {error}; it wants CAP_SYS_RESOURCE)"
        );
    }
    match ublk::stay_in_memory() {
        Ok(true) => {}
        Ok(false) => tracing::debug!("memory isn't locked: RLIMIT_MEMLOCK has a limit"),
        Err(error) => tracing::info!("memory can't be locked: {error}"),
    }
}

fn start_log(filter: &str) -> Result<SetLog, DaemonError> {
    let parse = |filter: &str| EnvFilter::try_new(filter).map_err(|error| error.to_string());
    let first = parse(filter).map_err(|message| DaemonError::Config {
        place: "log".into(),
        message,
    })?;
    let (filter, handle) = reload::Layer::new(first);
    let to_stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // journald stamps lines itself.
    let layer = if std::env::var_os("JOURNAL_STREAM").is_some() {
        tracing_subscriber::Layer::boxed(to_stderr.without_time().with_ansi(false))
    } else {
        tracing_subscriber::Layer::boxed(to_stderr.with_ansi(false))
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .init();
    Ok(Box::new(move |text| {
        let new = parse(text)?;
        handle.reload(new).map_err(|error| error.to_string())
    }))
}

/// A panic on an engine thread may leave a row half done with its lock held: nothing there can be
/// trusted on. The process ends, the labels stay unclean, and the next start puts parity right.
fn abort_on_engine_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        if std::thread::current().name() == Some(THREAD_NAME) {
            tracing::error!("an engine thread panicked: aborting; arrays start unclean next time");
            std::process::abort();
        }
    }));
}
