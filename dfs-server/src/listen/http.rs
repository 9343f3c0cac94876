//! gRPC and HTTP on accepted connections: one task each, a router that answers, and bounds on what a peer decides.
//!
//! A peer decides how many calls it has open, how long headers and bodies are, and how long it takes over them. Headers,
//! frames and calls have limits per connection. Bytes of request bodies have them for the whole listener (`budget`), large
//! calls apart from small ones, and for each address: a call beyond is refused as unavailable, which our clients repeat, and
//! heartbeats pass whoever sends large calls. A body that stops in the middle is given up after [`BODY_PATIENCE`], and one
//! that trickles after a time that its messages' lengths give.
//! An answer that its peer does not take is kept until its call is given up ([`CALL_PATIENCE`]): what bounds these is the
//! number of calls and the length of one answer. One that is taken slowly is not broken off.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::codegen::{BoxFuture, Service as _, StdError};
use tonic::transport::server::TcpConnectInfo;
use tracing::debug;

use super::acceptor::Acceptor;
use super::browsers::{seal, turn_away};
use super::budget::{Budgets, Charge, GRACE, LEAST_RATE, MessageMeter};
use super::connection::{AnsweredConnection, ClientConnection};
use super::door::{Busy, CallPatience, Door, Limits, Pass};
use super::host_names::HostNames;

/// Connections without a request are strangers: our clients connect when they have one.
const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// Mounts and DataNodes speak every few seconds; a client that comes back after this connects again.
const GRPC_IDLE: Duration = Duration::from_secs(900);
/// Who asks over HTTP comes now and then, and connects again. This is the time for a request's head, too: it counts from the end of
/// the answer before, or from the connection's beginning, whether or not anything of the head comes.
const HTTP_IDLE: Duration = HEAD_PATIENCE;
/// A call that moves nothing, the reading of its answer included: it loses its place when places are short, and in any case
/// after a time that no call of ours takes.
const CALL_PATIENCE: CallPatience =
    CallPatience::Ends { stalled: Duration::from_secs(120), hung: Duration::from_secs(1200) };
/// Dead peers are noticed, and their connections freed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for the peer of a connection that is ended to take its last answers.
const FAREWELL: Duration = Duration::from_millis(200);
/// Calls open on one connection, as hyper has it by default.
const CALLS_MAX: u32 = 200;
/// Headers of one call, in bytes.
const HEADERS_MAX: u32 = 16 * 1024;
/// An HTTP request's head, in bytes and headers, and the time to send it.
const HEAD_MAX: usize = 16 * 1024;
const HEAD_LINES_MAX: usize = 64;
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// Silence in the middle of a body after which it is given up.
const BODY_PATIENCE: Duration = GRACE;

/// What is spoken on a listener.
#[derive(Clone, Debug)]
pub(crate) enum Protocol {
    /// HTTP/2 with these windows, in bytes: of a call, of a connection.
    Grpc { call_window: u32, connection_window: u32 },
    /// HTTP/1, to whoever asks by one of these names.
    Http(Arc<HostNames>),
}

/// Serves `router` to at most `total` connections, three quarters of them from one address, until the acceptor is dropped.
/// To be called within the runtime.
///
/// # Errors
/// When the accepting thread cannot be started.
pub(crate) fn serve(
    name: &'static str,
    listener: TcpListener,
    total: usize,
    protocol: Protocol,
    router: Router,
) -> io::Result<Acceptor> {
    let (first_request, idle) = match &protocol {
        Protocol::Grpc { .. } => (FIRST_REQUEST, GRPC_IDLE),
        Protocol::Http(_) => (HEAD_PATIENCE, HTTP_IDLE),
    };
    let door = Door::new(Limits::of(total, first_request, idle, CALL_PATIENCE), None);
    // Without state, the router need not be prepared for every call.
    let server = Arc::new(Server { protocol, router: router.with_state(()), budgets: Arc::default() });
    let runtime = Handle::current();
    Acceptor::start(name, listener, door, move |socket, peer, pass| {
        let leave = Arc::new(Notify::new());
        let left = Arc::clone(&leave);
        pass.on_end(move || left.notify_one());
        let server = Arc::clone(&server);
        runtime.spawn(async move { server.serve(socket, peer, pass, &leave).await });
    })
}

struct Server {
    protocol: Protocol,
    router: Router,
    budgets: Arc<Budgets>,
}

impl Server {
    async fn serve(&self, socket: TcpStream, peer: SocketAddr, pass: Pass, leave: &Notify) {
        let opened = socket
            .set_nonblocking(true)
            .and_then(|()| socket.set_nodelay(true))
            .and_then(|()| tokio::net::TcpStream::from_std(socket));
        let socket = match opened {
            Ok(socket) => socket,
            Err(error) => return debug!(%peer, %error, "connection lost at once"),
        };
        let pass = Arc::new(pass);
        let calls = Calls {
            router: self.router.clone(),
            pass: Arc::clone(&pass),
            peer: peer.ip(),
            info: TcpConnectInfo { local_addr: socket.local_addr().ok(), remote_addr: Some(peer) },
            budgets: Arc::clone(&self.budgets),
            names: match &self.protocol {
                Protocol::Grpc { .. } => None,
                Protocol::Http(names) => Some(Arc::clone(names)),
            },
        };
        let ended = match self.protocol {
            Protocol::Grpc { call_window, connection_window } => {
                let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                http2
                    .timer(TokioTimer::new())
                    .keep_alive_interval(KEEP_ALIVE_INTERVAL)
                    .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
                    .initial_stream_window_size(call_window)
                    .initial_connection_window_size(connection_window)
                    .max_concurrent_streams(CALLS_MAX)
                    .max_header_list_size(HEADERS_MAX);
                let connection = http2.serve_connection(TokioIo::new(ClientConnection(socket)), calls);
                drive(connection, |connection| connection.graceful_shutdown(), leave, &pass).await
            }
            Protocol::Http(_) => {
                let mut http1 = hyper::server::conn::http1::Builder::new();
                // The door keeps the time for a head: hyper counts it from when the last answer is in its buffer, whoever takes it.
                http1.header_read_timeout(None).max_headers(HEAD_LINES_MAX).max_buf_size(HEAD_MAX);
                let connection =
                    http1.serve_connection(TokioIo::new(AnsweredConnection::new(socket, Arc::clone(&pass))), calls);
                drive(connection, |connection| connection.graceful_shutdown(), leave, &pass).await
            }
        };
        if let Err(error) = ended {
            debug!(%peer, %error, "connection broken off");
        }
    }
}

/// Serves a connection until it ends, or is told to leave: then it may answer what it was asked, for a moment.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    end_politely: impl FnOnce(Pin<&mut C>),
    leave: &Notify,
    pass: &Pass,
) -> hyper::Result<()> {
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = leave.notified() => {}
    }
    if pass.is_used() {
        end_politely(connection.as_mut());
        if let Ok(ended) = tokio::time::timeout(FAREWELL, connection).await {
            return ended;
        }
    }
    Ok(())
}

/// What answers the calls of one connection.
struct Calls {
    router: Router,
    pass: Arc<Pass>,
    peer: IpAddr,
    info: TcpConnectInfo,
    budgets: Arc<Budgets>,
    /// By which browsers may ask; none where they cannot.
    names: Option<Arc<HostNames>>,
}

impl Service<Request<Incoming>> for Calls {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let charge = Charge::new(&self.budgets, self.peer);
        let call = Arc::new(Call { busy: self.pass.busy(), charge });
        if let Some(mut refused) = self.names.as_deref().and_then(|names| turn_away(names, &request)) {
            seal(refused.headers_mut());
            return Box::pin(async move { Ok(refused.map(|body| Answer { body, call })) });
        }
        let is_sealed = self.names.is_some();
        let of_question = Arc::clone(&call);
        let meter = MessageMeter::default();
        let mut request = request.map(|body| Question { body, call: of_question, meter, waiting: None });
        request.extensions_mut().insert(self.info.clone());
        let answered = self.router.clone().call(request);
        Box::pin(async move {
            let mut answer = match answered.await {
                Ok(answer) => answer,
                Err(never) => match never {},
            };
            if is_sealed {
                seal(answer.headers_mut());
            }
            Ok(answer.map(|body| Answer { body, call }))
        })
    }
}

/// A call from its headers to the end of its answer.
struct Call {
    busy: Busy,
    /// What it holds of its body until it is answered.
    charge: Charge,
}

/// The body of a request.
struct Question<B> {
    body: B,
    call: Arc<Call>,
    meter: MessageMeter,
    /// Set while more is awaited.
    waiting: Option<Waiting>,
}

struct Waiting {
    since: Instant,
    most: Duration,
    end: Pin<Box<Sleep>>,
}

impl Waiting {
    fn begin(most: Duration) -> Self {
        Self { since: Instant::now(), most, end: Box::pin(tokio::time::sleep(most)) }
    }
}

/// Why a call ends that its peer is late with.
fn refusal(is_silent: bool) -> StdError {
    let words = if is_silent {
        format!("the rest of the call did not come within {BODY_PATIENCE:?}")
    } else {
        format!("the call comes too slowly: after {GRACE:?} it must have come at {LEAST_RATE} bytes per second")
    };
    Status::deadline_exceeded(words).into()
}

impl<B: Body<Data = Bytes> + Unpin> Body for Question<B>
where
    B::Error: Into<StdError>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            let most = this.meter.patience().min(BODY_PATIENCE);
            let waiting = this.waiting.get_or_insert_with(|| Waiting::begin(most));
            ready!(waiting.end.as_mut().poll(cx));
            return Poll::Ready(Some(Err(refusal(waiting.most == BODY_PATIENCE))));
        };
        if let Some(waiting) = this.waiting.take() {
            this.meter.on_waited(waiting.since.elapsed());
        }
        this.call.busy.on_progress();
        let Some(frame) = frame.transpose().map_err(Into::into)? else { return Poll::Ready(None) };
        if let Some(data) = frame.data_ref() {
            let arrived = this.meter.pass(data);
            // However much of it is here by now.
            if this.meter.patience().is_zero() {
                return Poll::Ready(Some(Err(refusal(false))));
            }
            if !this.call.charge.raise_to(arrived) {
                return Poll::Ready(Some(Err(Status::unavailable("too many large calls arrive at once").into())));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer.
struct Answer {
    body: axum::body::Body,
    call: Arc<Call>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.call.busy.on_progress();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use axum::routing::get;

    use super::super::door::Admission;
    use super::*;

    fn listen(total: usize) -> (SocketAddr, Acceptor) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(|| async { "here" }));
        (address, serve("test-http", listener, total, Protocol::Http(Arc::default()), router).unwrap())
    }

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn question_that_is_late_ends_although_its_next_piece_is_there() {
        let door = Door::new(Limits::of(4, FIRST_REQUEST, GRPC_IDLE, CALL_PATIENCE), None);
        let address = IpAddr::from([10, 0, 0, 1]);
        let Admission::In(pass) = door.admit(address, 1) else { panic!("nobody is in yet") };
        let call = Arc::new(Call { busy: pass.busy(), charge: Charge::new(&Arc::default(), address) });
        let next_piece = |bytes: usize, waited| {
            let mut meter = MessageMeter::default();
            meter.pass(&[0, 0, 0, 0, 9, 7]);
            meter.on_waited(waited);
            let body = axum::body::Body::from(vec![7; bytes]);
            let mut question = Question { body, call: Arc::clone(&call), meter, waiting: None };
            let mut context = Context::from_waker(std::task::Waker::noop());
            match Pin::new(&mut question).poll_frame(&mut context) {
                Poll::Ready(Some(Ok(_))) => None,
                Poll::Ready(Some(Err(error))) => error.downcast_ref::<Status>().map(Status::code),
                Poll::Ready(None) | Poll::Pending => panic!("there is a piece"),
            }
        };
        assert_eq!(next_piece(4, GRACE / 2), None);
        assert_eq!(next_piece(4, 2 * GRACE), Some(tonic::Code::DeadlineExceeded));
        assert_eq!(next_piece(8, 2 * GRACE), None, "all of it is there");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn serve_full_of_strangers_answers_whoever_asks() {
        let (address, _acceptor) = listen(4);
        let held: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
        let answer = ask(address, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"), "{answer}");
        drop(held);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn serve_refuses_endless_heads() {
        let (address, _acceptor) = listen(4);
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(HEAD_MAX));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(HEAD_LINES_MAX + 1));
        for request in [long, many] {
            assert!(ask(address, &request).starts_with("HTTP/1.1 4"), "{request}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn serve_gives_every_answer_the_headers_of_pages() {
        let (address, _acceptor) = listen(8);
        for (request, status) in [
            ("GET / HTTP/1.1\r\nHost: localhost", 200),
            ("GET /nothing HTTP/1.1\r\nHost: localhost", 404),
            ("DELETE / HTTP/1.1\r\nHost: localhost", 405),
            ("GET / HTTP/1.1\r\nHost: evil.example", 421),
            ("POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example", 403),
            ("GET / HTTP/1.0", 200),
        ] {
            let answer = ask(address, &format!("{request}\r\nConnection: close\r\n\r\n"));
            assert_eq!(answer.split(' ').nth(1), Some(status.to_string().as_str()), "{request}: {answer}");
            for header in [
                "content-security-policy: default-src 'none';",
                "x-content-type-options: nosniff",
                "x-frame-options: DENY",
                "cross-origin-resource-policy: same-origin",
                "referrer-policy: no-referrer",
                "cache-control: no-store",
            ] {
                assert!(answer.contains(header), "{request} has no {header}: {answer}");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn serve_lets_a_slow_reader_take_all() {
        const LENGTH: usize = 64 << 20;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(|| async { vec![7_u8; LENGTH] }));
        let _acceptor = serve("test-http", listener, 4, Protocol::Http(Arc::default()), router).unwrap();
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        // Reads on, a little each second, for longer than a connection may be idle and two rounds of the door.
        let (mut taken, mut piece) = (0, vec![0; 1 << 20]);
        let begun = std::time::Instant::now();
        while begun.elapsed() < 2 * HTTP_IDLE {
            taken += socket.read(&mut piece).unwrap();
            std::thread::sleep(Duration::from_secs(1));
        }
        while taken < LENGTH {
            let more = socket.read(&mut piece).unwrap();
            assert!(more > 0, "cut after {taken} bytes");
            taken += more;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn serve_ends_an_idle_connection_after_the_time_that_operations_says() {
        let (address, _acceptor) = listen(4);
        let begun = std::time::Instant::now();
        let answer = ask(address, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(begun.elapsed() >= HTTP_IDLE, "it is kept so long");
        let operations = include_str!("../../../docs/operations.md");
        let words = operations.split_whitespace().collect::<Vec<_>>().join(" ");
        for said in [
            format!("after {} s (HTTP: {} s)", FIRST_REQUEST.as_secs(), HEAD_PATIENCE.as_secs()),
            format!("{} minutes (gRPC), 120 s (data) or {} s (HTTP)", GRPC_IDLE.as_secs() / 60, HTTP_IDLE.as_secs()),
        ] {
            assert!(words.contains(&said), "docs/operations.md does not say: {said}");
        }
    }
}
