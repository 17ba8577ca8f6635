//! The client against servers of a few lines.

use super::*;

use tokio::task::JoinHandle;

const SIZE: u64 = 1 << 20;

/// One end of a socket pair for the client, and a task that plays the server on the other.
fn against<F>(server: impl FnOnce(UnixStream) -> F) -> (UnixStream, JoinHandle<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours, tokio::spawn(server(theirs)))
}

async fn reply_to_option(stream: &mut UnixStream, option: u32, kind: u32, payload: &[u8]) {
    stream.write_u64(wire::OPTION_REPLY_MAGIC).await.unwrap();
    stream.write_u32(option).await.unwrap();
    stream.write_u32(kind).await.unwrap();
    let len = u32::try_from(payload.len()).unwrap();
    stream.write_u32(len).await.unwrap();
    stream.write_all(payload).await.unwrap();
}

/// Option code and payload.
async fn option(stream: &mut UnixStream) -> (u32, Vec<u8>) {
    assert_eq!(stream.read_u64().await.unwrap(), wire::OPTION_MAGIC);
    let option = stream.read_u32().await.unwrap();
    let len = stream.read_u32().await.unwrap();
    let mut payload = vec![0; usize::try_from(len).unwrap()];
    stream.read_exact(&mut payload).await.unwrap();
    (option, payload)
}

async fn negotiate(stream: &mut UnixStream, structured: bool) {
    stream.write_u64(wire::INIT_MAGIC).await.unwrap();
    stream.write_u64(wire::OPTION_MAGIC).await.unwrap();
    stream.write_u16(3).await.unwrap();
    assert_eq!(stream.read_u32().await.unwrap(), 3);
    let (code, _) = option(stream).await;
    let answer = if structured {
        wire::REP_ACK
    } else {
        wire::REP_ERROR | 1
    };
    reply_to_option(stream, code, answer, &[]).await;
    let (code, payload) = option(stream).await;
    assert_eq!((code, &payload[4..6]), (wire::OPT_GO, &b"pg"[..]));
    let export = [&[0, 0], &SIZE.to_be_bytes()[..], &[0, 1]].concat();
    reply_to_option(stream, code, wire::REP_INFO, &export).await;
    let sizes = [&[0, 3][..], &[0, 0, 2, 0], &[0, 0, 16, 0], &[0, 0, 4, 0]].concat();
    reply_to_option(stream, code, wire::REP_INFO, &sizes).await;
    reply_to_option(stream, code, wire::REP_ACK, &[]).await;
}

/// Type, cookie, offset and length.
async fn request(stream: &mut UnixStream) -> (u16, u64, u64, u32) {
    assert_eq!(stream.read_u32().await.unwrap(), 0x2560_9513);
    assert_eq!(stream.read_u16().await.unwrap(), 0);
    (
        stream.read_u16().await.unwrap(),
        stream.read_u64().await.unwrap(),
        stream.read_u64().await.unwrap(),
        stream.read_u32().await.unwrap(),
    )
}

async fn simple(stream: &mut UnixStream, cookie: u64, errno: u32, data: &[u8]) {
    stream.write_u32(wire::SIMPLE_REPLY_MAGIC).await.unwrap();
    stream.write_u32(errno).await.unwrap();
    stream.write_u64(cookie).await.unwrap();
    stream.write_all(data).await.unwrap();
}

async fn chunk(stream: &mut UnixStream, flags: u16, kind: u16, cookie: u64, payload: &[u8]) {
    stream.write_u32(wire::CHUNK_MAGIC).await.unwrap();
    stream.write_u16(flags).await.unwrap();
    stream.write_u16(kind).await.unwrap();
    stream.write_u64(cookie).await.unwrap();
    let len = u32::try_from(payload.len()).unwrap();
    stream.write_u32(len).await.unwrap();
    stream.write_all(payload).await.unwrap();
}

#[tokio::test]
async fn large_requests_are_cut_at_the_advertised_maximum() {
    let (stream, server) = against(|mut stream| async move {
        negotiate(&mut stream, false).await;
        for (offset, len) in [(512, 1024), (1536, 1024), (2560, 512)] {
            let (kind, cookie, at, n) = request(&mut stream).await;
            assert_eq!((kind, at, n), (1, offset, len));
            let mut payload = vec![0; usize::try_from(n).unwrap()];
            stream.read_exact(&mut payload).await.unwrap();
            simple(&mut stream, cookie, 0, &[]).await;
        }
        let (kind, cookie, ..) = request(&mut stream).await;
        assert_eq!(kind, 0);
        simple(&mut stream, cookie, 0, &[7; 512]).await;
        assert_eq!(request(&mut stream).await.0, 2);
    });
    let mut client = Client::over(stream, "pg").await.unwrap();
    assert_eq!((client.size(), client.is_read_only()), (SIZE, false));
    assert_eq!(client.block_sizes().maximum, 1024);
    client.write(512, &[1; 2560]).await.unwrap();
    let mut data = [0; 512];
    client.read(0, &mut data).await.unwrap();
    assert_eq!(data, [7; 512]);
    client.disconnect().await.unwrap();
    server.await.unwrap();
}

#[tokio::test]
async fn a_structured_read_is_put_together_from_data_and_holes() {
    let (stream, server) = against(|mut stream| async move {
        negotiate(&mut stream, true).await;
        let (_, cookie, ..) = request(&mut stream).await;
        let hole = [&4096u64.to_be_bytes()[..], &[0, 0, 2, 0]].concat();
        chunk(&mut stream, 0, 2, cookie, &hole).await;
        let data = [&4608u64.to_be_bytes()[..], &[9; 512]].concat();
        chunk(&mut stream, 0, 1, cookie, &data).await;
        chunk(&mut stream, 1, 0, cookie, &[]).await;
    });
    let mut client = Client::over(stream, "pg").await.unwrap();
    let mut data = [5; 1024];
    client.read(4096, &mut data).await.unwrap();
    assert_eq!((&data[..512], &data[512..]), (&[0; 512][..], &[9; 512][..]));
    server.await.unwrap();
}

#[tokio::test]
async fn a_refused_request_says_why_and_the_connection_goes_on() {
    let (stream, server) = against(|mut stream| async move {
        negotiate(&mut stream, true).await;
        let (_, cookie, ..) = request(&mut stream).await;
        let payload = [&[0, 0, 0, 5, 0, 4][..], b"worn"].concat();
        chunk(&mut stream, 1, 0x8001, cookie, &payload).await;
        let (kind, cookie, ..) = request(&mut stream).await;
        assert_eq!(kind, 3);
        simple(&mut stream, cookie, 0, &[]).await;
    });
    let mut client = Client::over(stream, "pg").await.unwrap();
    let error = client.read(0, &mut [0; 512]).await.unwrap_err();
    assert!(matches!(&error, NbdClientError::Refused { errno: 5, .. }));
    assert!(error.to_string().ends_with("(worn)"), "{error}");
    client.flush().await.unwrap();
    server.await.unwrap();
}

#[tokio::test]
async fn data_that_was_not_asked_for_is_an_error() {
    for (at, len) in [(0u64, 512usize), (4096, 1024), (u64::MAX, 512), (4096, 0)] {
        let (stream, server) = against(move |mut stream| async move {
            negotiate(&mut stream, true).await;
            let (_, cookie, ..) = request(&mut stream).await;
            let data = [&at.to_be_bytes()[..], &vec![9; len]].concat();
            chunk(&mut stream, 1, 1, cookie, &data).await;
        });
        let mut client = Client::over(stream, "pg").await.unwrap();
        let error = client.read(4096, &mut [0; 512]).await.unwrap_err();
        assert!(matches!(error, NbdClientError::Protocol(_)), "{error}");
        server.await.unwrap();
    }
}

#[tokio::test]
async fn a_stranger_is_recognised() {
    let (stream, server) = against(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 400 Bad").await.unwrap();
    });
    let error = Client::over(stream, "pg").await.unwrap_err();
    assert!(matches!(error, NbdClientError::Magic { .. }));
    server.await.unwrap();
}
