//! TLS of NBD exports, by clients that others wrote: nbdinfo (GnuTLS) and qemu.

use cairn_hwtests::host::Host;
use cairn_hwtests::newer::newer;
use cairn_hwtests::program::{Finished, run};
use cairn_hwtests::scratch::Scratch;
use cairn_hwtests::{disks, wait};

use crate::world::DISK_MIB;

/// An authority with a server's and a client's certificate, made anew for each test.
const CERTIFICATES: &str = r#"
set -eu
cd "$1"
key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }
sign() { # NAME EXTENSION CA [DAYS]
  openssl req -new -key "$1.key" -subj "/CN=$1" -out request.pem
  printf '%s\n' "$2" >extensions
  openssl x509 -req -in request.pem -CA "$3.pem" -CAkey "$3.key" -CAcreateserial \
    -days "${4:-2}" -extfile extensions -out "$1.pem" 2>errors || { cat errors; exit 1; }
}
for ca in ca otherca; do
  key $ca.key
  openssl req -x509 -new -key $ca.key -subj "/CN=$ca" -days 2 -out $ca.pem
done
key server.key
sign server 'subjectAltName=DNS:localhost,IP:127.0.0.1' ca
cp server.pem first.pem
sign server 'subjectAltName=DNS:localhost,IP:127.0.0.1' ca
key expired.key
sign expired 'subjectAltName=DNS:localhost' ca 0
key elsewhere.key
sign elsewhere 'subjectAltName=DNS:elsewhere.example' ca
for client in client stranger; do
  key $client.key
done
sign client 'extendedKeyUsage=clientAuth' ca
sign stranger 'extendedKeyUsage=clientAuth' otherca
# The expired one is valid to the end of the second that made it.
sleep 2
# As libnbd and qemu want them: a directory each.
for who in nobody client stranger; do
  mkdir $who
  cp ca.pem $who/ca-cert.pem
  [ $who = nobody ] && continue
  cp $who.pem $who/client-cert.pem
  cp $who.key $who/client-key.pem
done
"#;

struct World {
    host: Host,
    port: u16,
    scratch: Scratch,
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// The table `[nbd]` with these files and further settings.
fn table(scratch: &Scratch, certificate: &str, key: &str, further: &str) -> String {
    format!(
        "degraded_wait_seconds = 1\n[nbd]\ntls_certificate = '{}'\ntls_key = '{}'\n{further}",
        scratch.text(certificate),
        scratch.text(key)
    )
}

impl World {
    /// A volume at a port of all addresses, where TLS is required.
    fn new(further: impl FnOnce(&Scratch) -> String) -> Self {
        let scratch = Scratch::new();
        let dir = scratch.path().to_string_lossy().into_owned();
        run("sh", &["-c", CERTIFICATES, "sh", &dir]).ok();
        let config = table(&scratch, "server.pem", "server.key", &further(&scratch));
        let host = Host::start_with(&scratch, "state", &config);
        let members = disks::texts(&disks::files(scratch.path(), "d", 2, DISK_MIB));
        host.create("pool", "raid1", &members, &[]);
        let create = ["--array", "pool", "--size", "64MiB"];
        host.ok(&[&["volume", "create", "pg"], &create[..]].concat());
        let port = free_port();
        let address = format!("tcp:0.0.0.0:{port}");
        host.ok(&["volume", "export", "pg", "--nbd", &address])
            .says(&["nbds://"]);
        Self {
            host,
            port,
            scratch,
        }
    }

    /// nbdinfo as `who`, who believes in `ca.pem`.
    fn info(&self, host: &str, who: &str) -> Finished {
        run("nbdinfo", &["--size", &self.uri(host, who)])
    }

    fn uri(&self, host: &str, who: &str) -> String {
        let directory = self.scratch.text(who);
        format!(
            "nbds://{host}:{}/pg?tls-certificates={directory}",
            self.port
        )
    }

    /// qemu-img as `who`, told to look for `host` in the certificate.
    fn qemu(&self, who: &str, host: &str) -> Vec<String> {
        let directory = self.scratch.text(who);
        [
            "info".to_owned(),
            "--object".to_owned(),
            format!("tls-creds-x509,id=tls0,endpoint=client,dir={directory}"),
            "--image-opts".to_owned(),
            format!(
                "driver=nbd,host=127.0.0.1,port={},export=pg,tls-creds=tls0,tls-hostname={host}",
                self.port
            ),
        ]
        .to_vec()
    }

    fn reload(&self, config: &str, word: &str) {
        let path = self.scratch.join("state.toml");
        std::fs::write(path, config).unwrap();
        let before = self.host.log().matches(word).count();
        run("kill", &["-HUP", &self.host.pid().to_string()]).ok();
        wait::until("the reload", || {
            if self.host.log().matches(word).count() > before {
                Ok(())
            } else {
                Err(self.host.log())
            }
        });
    }
}

fn refused(finished: &Finished, words: &[&str]) {
    assert_ne!(finished.code, Some(0), "{finished}");
    let said = format!("{}{}", finished.stdout, finished.stderr);
    assert!(words.iter().any(|word| said.contains(word)), "{finished}");
}

#[test]
fn clients_with_the_authoritys_certificate_are_served_and_others_are_not() {
    let world = World::new(|_| String::new());
    world.info("localhost", "nobody").ok().says(&["67108864"]);
    let shown = run("nbdinfo", &[&world.uri("localhost", "nobody")]).ok();
    shown.says(&["protocol: newstyle-fixed with TLS, using structured packets"]);
    let shown = newer("nbdinfo", &[&world.uri("localhost", "nobody")]).ok();
    shown.says(&["with TLS, using extended packets"]);
    for run in [newer, |program: &str, line: &[&str]| run(program, line)] {
        let line = world.qemu("nobody", "localhost");
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        run("qemu-img", &line).ok().says(&["64 MiB"]);
        // The name isn't in the certificate.
        let line = world.qemu("nobody", "elsewhere.example");
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        refused(&run("qemu-img", &line), &["hostname", "certificate"]);
    }
    // Without TLS nothing is told.
    let plain = format!("nbd://localhost:{}/pg", world.port);
    refused(
        &run("nbdinfo", &["--size", &plain]),
        &["TLS", "NBD_REP_ERR_TLS_REQD", "policy"],
    );
    let list = format!("nbd://localhost:{}", world.port);
    refused(
        &run("nbdinfo", &["--list", &list]),
        &["TLS", "policy", "not supported"],
    );
    let image = format!("driver=nbd,host=127.0.0.1,port={},export=pg", world.port);
    refused(
        &run("qemu-img", &["info", "--image-opts", &image]),
        &["TLS"],
    );
}

#[test]
fn data_goes_through_tls_both_ways() {
    let world = World::new(|_| String::new());
    let (there, back) = (world.scratch.text("there"), world.scratch.text("back"));
    let make = format!("dd if=/dev/urandom of={there} bs=1M count=64 status=none");
    run("sh", &["-c", &make]).ok();
    let uri = world.uri("localhost", "nobody");
    run("nbdcopy", &["--flush", "--requests=64", &there, &uri]).ok();
    newer("nbdcopy", &["--connections=4", &uri, &back]).ok();
    run("cmp", &[&there, &back]).ok();
    for run_qemu in [newer, |program: &str, line: &[&str]| run(program, line)] {
        run("sh", &["-c", &make]).ok();
        let credentials = format!(
            "tls-creds-x509,id=tls0,endpoint=client,dir={}",
            world.scratch.text("nobody")
        );
        let image = format!(
            "driver=nbd,host=127.0.0.1,port={},export=pg,tls-creds=tls0,tls-hostname=localhost",
            world.port
        );
        let line = ["convert", "--object", &credentials];
        let onto = ["-n", "-f", "raw", "--target-image-opts", &there, &image];
        run_qemu("qemu-img", &[&line[..], &onto].concat()).ok();
        let from = ["--image-opts", &image, "-O", "raw", &back];
        run_qemu("qemu-img", &[&line[..], &from].concat()).ok();
        run("cmp", &[&there, &back]).ok();
    }
}

#[test]
fn with_an_authority_for_clients_they_must_show_its_certificate() {
    let world = World::new(|scratch| format!("tls_client_ca = '{}'\n", scratch.text("ca.pem")));
    world.info("localhost", "client").ok().says(&["67108864"]);
    for who in ["nobody", "stranger"] {
        let finished = world.info("localhost", who);
        assert_ne!(finished.code, Some(0), "{who}: {finished}");
        let line = world.qemu(who, "localhost");
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let finished = run("qemu-img", &line);
        assert_ne!(finished.code, Some(0), "{who}: {finished}");
    }
    let line = world.qemu("client", "localhost");
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    run("qemu-img", &line).ok();
}

#[test]
fn replaced_files_serve_new_connections_and_bad_ones_change_nothing() {
    let world = World::new(|_| String::new());
    let serial = || {
        let line = format!(
            "openssl x509 -in {} -noout -serial",
            world.scratch.text("server.pem")
        );
        run("sh", &["-c", &line]).ok().stdout
    };
    let before = serial();
    std::fs::copy(
        world.scratch.join("first.pem"),
        world.scratch.join("server.pem"),
    )
    .unwrap();
    assert_ne!(serial(), before);
    let good = table(&world.scratch, "server.pem", "server.key", "");
    world.reload(&good, "the configuration was reloaded");
    world.info("localhost", "nobody").ok();
    // Each reload puts two messages into the notify socket, which nobody empties here: the daemon
    // doesn't wait for it.
    for (certificate, key, why) in [
        (
            "expired.pem",
            "expired.key",
            "expired.pem: the certificate expired at",
        ),
        (
            "server.pem",
            "client.key",
            "client.key: isn't the private key of the certificate",
        ),
        ("gone.pem", "server.key", "gone.pem: No such file"),
        ("nobody", "server.key", "nobody: Is a directory"),
        (
            "server.key",
            "server.key",
            "server.key: holds no certificate",
        ),
        ("server.pem", "ca.pem", "ca.pem: holds no private key"),
    ] {
        let config = table(&world.scratch, certificate, key, "");
        world.reload(&config, why);
        world.info("localhost", "nobody").ok();
    }
    // Of several authorities for clients those that are over don't count; one alone is an error.
    let authorities = |name: &str| {
        let further = format!("tls_client_ca = '{}'\n", world.scratch.text(name));
        table(&world.scratch, "server.pem", "server.key", &further)
    };
    let both: String = ["expired.pem", "ca.pem"]
        .map(|name| std::fs::read_to_string(world.scratch.join(name)).unwrap())
        .concat();
    std::fs::write(world.scratch.join("both.pem"), both).unwrap();
    let reloaded = "the configuration was reloaded";
    world.reload(&authorities("both.pem"), reloaded);
    world.info("localhost", "client").ok();
    let finished = world.info("localhost", "nobody");
    assert_ne!(finished.code, Some(0), "{finished}");
    let expired = "expired.pem: the certificate expired at";
    world.reload(&authorities("expired.pem"), expired);
    world.info("localhost", "client").ok();
    // A certificate for another host is fine for the server, and the client refuses it.
    let config = table(&world.scratch, "elsewhere.pem", "elsewhere.key", "");
    world.reload(&config, reloaded);
    refused(
        &world.info("localhost", "nobody"),
        &["certificate", "hostname"],
    );
}

#[test]
fn a_daemon_whose_certificate_has_expired_starts_and_only_its_tls_exports_fail() {
    let mut world = World::new(|_| String::new());
    let socket = format!("unix:{}", world.scratch.text("pg.sock"));
    world.host.ok(&["volume", "export", "pg", "--nbd", &socket]);
    world.host.down();
    let config = table(&world.scratch, "expired.pem", "expired.key", "");
    std::fs::write(world.scratch.join("state.toml"), config).unwrap();
    world.host.up();
    let volume: cairn_api::Volume = world.host.json(&["volume", "show", "pg"]);
    let state = |kind: &str| {
        let export = volume.exports.iter().find(|e| e.nbd.starts_with(kind));
        export.unwrap().clone()
    };
    assert_eq!(state("unix").state, cairn_api::ExportState::Listening);
    assert_eq!(state("tcp").state, cairn_api::ExportState::Failed);
    let why = state("tcp").error.unwrap();
    assert!(
        why.contains("expired.pem: the certificate expired"),
        "{why}"
    );
}

#[test]
fn without_certificates_only_loopback_is_exported() {
    let scratch = Scratch::new();
    let host = Host::start(&scratch);
    let members = disks::texts(&disks::files(scratch.path(), "d", 2, DISK_MIB));
    host.create("pool", "raid1", &members, &[]);
    host.ok(&[
        "volume", "create", "pg", "--array", "pool", "--size", "64MiB",
    ]);
    let refused = host.cairn(&["volume", "export", "pg", "--nbd", "tcp:0.0.0.0:10809"]);
    assert_ne!(refused.code, Some(0));
    refused.says(&["nbd.tls_certificate", "unix socket"]);
}
