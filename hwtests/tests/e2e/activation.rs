//! Sockets that the service manager has made: they serve, and outlive the daemon.

use std::io::Read;
use std::os::unix::net::UnixStream;

use cairn_hwtests::disks;
use cairn_hwtests::host::Host;
use cairn_hwtests::program::run;
use cairn_hwtests::scratch::Scratch;

use crate::world::{DISK_MIB, io};

#[test]
fn exports_are_served_at_sockets_that_systemd_made() {
    let scratch = Scratch::new();
    let unix = scratch.text("activated.sock");
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let addresses = [format!("unix:{unix}"), format!("tcp:127.0.0.1:{port}")];
    let mut host = Host::start_activated(&scratch, &addresses);
    let members = disks::texts(&disks::files(scratch.path(), "d", 2, DISK_MIB));
    host.create("pool", "raid1", &members, &[]);
    host.ok(&[
        "volume", "create", "pg", "--array", "pool", "--size", "64MiB",
    ]);
    // A client may come before the export: it waits in the queue.
    let mut early = UnixStream::connect(&unix).unwrap();
    for address in &addresses {
        host.ok(&["volume", "export", "pg", "--nbd", address]);
    }
    let mut greeting = [0; 8];
    early.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"NBDMAGIC");
    drop(early);
    let uri = format!("nbd+unix:///pg?socket={unix}");
    io(&uri, &["write -P 5 0 1M"]);
    let over_tcp = format!("nbd://127.0.0.1:{port}/pg");
    io(&over_tcp, &["read -P 5 0 1M"]);
    // Unexported and exported again: the socket is the same.
    host.ok(&["volume", "unexport", "pg", "--nbd", &addresses[0]]);
    host.ok(&["volume", "export", "pg", "--nbd", &addresses[0]]);
    run("nbdinfo", &["--size", &uri]).ok().says(&["67108864"]);
    host.down();
    assert!(
        std::path::Path::new(&unix).exists(),
        "the file is the service manager's"
    );
}
