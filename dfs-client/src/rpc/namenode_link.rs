//! Calls to whichever NameNode leads, tried again while that can help.

use std::collections::HashMap;
use std::error::Error as _;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dfs_common::error::{CallFate, DfsError, ErrorKind, Result, RetryClass};
use dfs_common::retry::Backoff;
use dfs_proto::v1::client_namenode_client::ClientNamenodeClient;
use dfs_proto::{GRPC_MESSAGE_MAX, status};
use parking_lot::Mutex;
use tonic::transport::Channel;
use tracing::{debug, info, warn};

use super::dial::grpc_channel;

pub(crate) type NamenodeClient = ClientNamenodeClient<Channel>;

/// Shapes one generated client method into what [`NamenodeLink::call`] takes.
macro_rules! rpc {
    ($method:ident) => {
        |mut namenode: crate::rpc::NamenodeClient, request| async move { namenode.$method(request).await }
    };
}
pub(crate) use rpc;

/// Pauses between rounds over the NameNodes: a restart takes a second or two, so longer pauses only add to the outage.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(2) };
/// Leaders named by followers that are kept beside the configured ones: a group has at most a handful of members.
const CHANNELS_MAX: usize = 32;

/// How long to go on without an answer: for one try, and in all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) per_try: Duration,
    pub(crate) total: Duration,
}

impl Patience {
    /// What is left of it when so much was spent before the call.
    pub(crate) fn after(self, spent: Duration) -> Self {
        Self { total: self.total.saturating_sub(spent), ..self }
    }
}

/// Why a call has brought no result. The errors themselves know, too, what has become of the call ([`CallFate`]).
#[derive(Debug)]
pub(crate) enum Failed {
    /// The NameNode has refused it. `was_repeated`: earlier tries may have made it. They were not answered, or with an error
    /// that does not say: one of a journal that stops, for instance.
    Refused { error: DfsError, was_repeated: bool },
    /// It has not answered: whether the call was made is not known.
    Unanswered(DfsError),
}

impl From<Failed> for DfsError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Refused { error, .. } | Failed::Unanswered(error) => error,
        }
    }
}

/// The NameNodes of one group.
pub(crate) struct NamenodeLink {
    /// As configured; never empty.
    addresses: Vec<String>,
    /// Protects which NameNode is asked next and the channels; never held across an await.
    state: Mutex<State>,
    /// No answer has come since the last failure: thousands of calls in an outage make one line in the log.
    is_down: AtomicBool,
}

struct State {
    current: String,
    channels: HashMap<String, NamenodeClient>,
}

impl NamenodeLink {
    /// Nothing is dialled yet.
    ///
    /// # Errors
    /// `InvalidArgument` without addresses or with a malformed one.
    pub(crate) fn new(addresses: Vec<String>) -> Result<Self> {
        let Some(first) = addresses.first() else {
            return Err(DfsError::new(
                ErrorKind::InvalidArgument,
                "no NameNode address; give host:port or set \"dfs.namenode.address\"",
            ));
        };
        let mut channels = HashMap::new();
        for address in &addresses {
            channels.insert(address.clone(), client_of(address)?);
        }
        let state = Mutex::new(State { current: first.clone(), channels });
        Ok(Self { state, addresses, is_down: AtomicBool::new(false) })
    }

    /// Sends `request` until there is an answer or `patience` ends.
    ///
    /// # Errors
    /// The NameNode's own, or the last failure with the address that gave it.
    pub(crate) async fn call<Req, Resp, Call, Fut>(
        &self,
        patience: Patience,
        request: Req,
        call: Call,
    ) -> Result<Resp, Failed>
    where
        Req: Clone,
        Call: Fn(NamenodeClient, Req) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Resp>, tonic::Status>>,
    {
        self.call_anew(patience, || request.clone(), call).await
    }

    /// As [`call`](Self::call), with the request made anew for each try: what it says of other calls may have changed.
    pub(crate) async fn call_anew<Req, Resp, Call, Fut>(
        &self,
        patience: Patience,
        request: impl Fn() -> Req,
        call: Call,
    ) -> Result<Resp, Failed>
    where
        Call: Fn(NamenodeClient, Req) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Resp>, tonic::Status>>,
    {
        let start = Instant::now();
        let mut failures = 0;
        loop {
            let (address, client) = self.current();
            let deadline = patience.per_try.min(patience.total.saturating_sub(start.elapsed()));
            let outcome = tokio::time::timeout(deadline, call(client, request())).await;
            let mut is_answer = false;
            let error = match outcome {
                Ok(Ok(response)) => {
                    self.on_answer(&address);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => {
                    is_answer = !status.details().is_empty();
                    error_of(&status)
                }
                Err(_) => {
                    let words = format!("no answer within {:.1} s", deadline.as_secs_f32());
                    DfsError::new(ErrorKind::TimedOut, words)
                }
            };
            if error.kind().retry_class() == RetryClass::Never {
                self.on_answer(&address);
                let was_repeated = failures > 0;
                if !is_answer {
                    // The transport's own, which may have come up on the way back.
                    return Err(Failed::Unanswered(error));
                }
                let fate = fate_of_refused(error.kind(), was_repeated);
                let error = error.with_fate(fate);
                return Err(Failed::Refused { error, was_repeated });
            }
            debug!(namenode = %address, error = %error.chain(), "call failed, trying again");
            if is_answer {
                self.on_answer(&address);
            } else {
                self.on_outage(&address, &error);
            }
            self.on_failure(&address, error.leader());
            let pause = self.pause_after(failures, error.leader().is_some());
            if start.elapsed() + pause >= patience.total {
                return Err(Failed::Unanswered(give_up(&address, &error, start.elapsed())));
            }
            failures += 1;
            tokio::time::sleep(pause).await;
        }
    }

    fn current(&self) -> (String, NamenodeClient) {
        let state = self.state.lock();
        let client = state.channels[&state.current].clone();
        (state.current.clone(), client)
    }

    /// Tells once that an outage is over.
    fn on_answer(&self, address: &str) {
        if self.is_down.load(Ordering::Relaxed) && self.is_down.swap(false, Ordering::Relaxed) {
            info!(namenode = %address, "NameNode answers again");
        }
    }

    /// Tells once that an outage has begun.
    fn on_outage(&self, address: &str, error: &DfsError) {
        if !self.is_down.swap(true, Ordering::Relaxed) {
            warn!(namenode = %address, error = %error.chain(), "NameNode does not answer, trying on");
        }
    }

    /// Chooses whom to ask next, unless another call already moved on from `failed`.
    fn on_failure(&self, failed: &str, leader: Option<&str>) {
        let mut state = self.state.lock();
        if state.current != failed {
            return;
        }
        let next = match leader.filter(|leader| *leader != failed) {
            Some(leader) => leader.to_owned(),
            None => self.after(failed),
        };
        if !state.channels.contains_key(&next) {
            let known = state.channels.len() < CHANNELS_MAX;
            match client_of(&next) {
                Ok(client) if known => _ = state.channels.insert(next.clone(), client),
                Ok(_) | Err(_) => return,
            }
        }
        state.current = next;
    }

    /// The configured address after `address`, cyclically.
    fn after(&self, address: &str) -> String {
        let at = self.addresses.iter().position(|known| known == address);
        self.addresses[at.map_or(0, |at| (at + 1) % self.addresses.len())].clone()
    }

    /// No pause within the first round or towards a named leader, then growing ones.
    fn pause_after(&self, failures: usize, leader_known: bool) -> Duration {
        let rounds = failures / self.addresses.len();
        let round_ends = (failures + 1).is_multiple_of(self.addresses.len());
        if rounds == 0 && (leader_known || !round_ends) {
            return Duration::ZERO;
        }
        BACKOFF.delay(u32::try_from(rounds).unwrap_or(u32::MAX), &mut rand::rng())
    }
}

fn client_of(address: &str) -> Result<NamenodeClient> {
    let client = ClientNamenodeClient::new(grpc_channel(address)?);
    Ok(client.max_decoding_message_size(GRPC_MESSAGE_MAX).max_encoding_message_size(GRPC_MESSAGE_MAX))
}

/// The error in a status; for one of the transport's, with the causes that tonic keeps beside its terse message.
fn error_of(status: &tonic::Status) -> DfsError {
    let error = status::from_status(status);
    if !status.details().is_empty() {
        return error;
    }
    let mut words = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words.push_str(": ");
            words.push_str(&more);
        }
        cause = error.source();
    }
    DfsError::new(error.kind(), words)
}

/// What is known of a call that the NameNode has refused.
fn fate_of_refused(kind: ErrorKind, was_repeated: bool) -> CallFate {
    if was_repeated || kind == ErrorKind::OutcomeUnknown { CallFate::Unknown } else { CallFate::Refused }
}

fn give_up(address: &str, error: &DfsError, elapsed: Duration) -> DfsError {
    let kind = match error.kind() {
        ErrorKind::NotLeader => ErrorKind::Unavailable,
        kind => kind,
    };
    let words = error.chain();
    DfsError::new(kind, format!("NameNode {address}: {words} (tried for {:.1} s)", elapsed.as_secs_f32()))
        .with_fate(CallFate::Unanswered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(addresses: &[&str]) -> NamenodeLink {
        NamenodeLink::new(addresses.iter().map(|a| (*a).to_owned()).collect()).unwrap()
    }

    #[tokio::test]
    async fn on_failure_walks_the_list_and_follows_a_named_leader() {
        let link = link(&["a:1", "b:1", "c:1"]);
        link.on_failure("a:1", None);
        assert_eq!(link.current().0, "b:1");
        link.on_failure("a:1", None);
        assert_eq!(link.current().0, "b:1", "a late failure of the former one changes nothing");
        link.on_failure("b:1", Some("a:1"));
        assert_eq!(link.current().0, "a:1");
        link.on_failure("a:1", Some("d:1"));
        assert_eq!(link.current().0, "d:1", "a leader that is not in the list");
        link.on_failure("d:1", None);
        assert_eq!(link.current().0, "a:1");
    }

    #[tokio::test]
    async fn pause_after_lets_the_first_round_pass() {
        let link = link(&["a:1", "b:1"]);
        assert_eq!(link.pause_after(0, false), Duration::ZERO);
        assert!(link.pause_after(1, false) > Duration::ZERO);
        assert_eq!(link.pause_after(1, true), Duration::ZERO);
        assert!(link.pause_after(100, true) >= Duration::from_secs(1));
    }

    #[tokio::test]
    async fn call_gives_up_with_address_and_reason() {
        let bound_only = tokio::net::TcpSocket::new_v4().unwrap();
        bound_only.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = bound_only.local_addr().unwrap().to_string();
        let link = link(&[&address]);
        let patience = Patience { per_try: Duration::from_secs(1), total: Duration::from_millis(120) };
        let request = dfs_proto::v1::GetServerDefaultsRequest { header: None };
        let error = link
            .call(patience, request, |mut namenode, request| async move { namenode.get_server_defaults(request).await })
            .await
            .unwrap_err();
        let error = DfsError::from(error);
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.is_unanswered() && !error.is_refusal());
        assert!(error.message().contains(&address) && error.message().contains("refused"), "{error}");
    }

    #[test]
    fn fate_of_refused_is_certain_only_after_one_try() {
        assert_eq!(fate_of_refused(ErrorKind::NotFound, false), CallFate::Refused);
        assert_eq!(fate_of_refused(ErrorKind::NotFound, true), CallFate::Unknown);
        assert_eq!(fate_of_refused(ErrorKind::OutcomeUnknown, false), CallFate::Unknown);
    }

    #[test]
    fn new_refuses_what_is_no_address() {
        for bad in ["", "host", "host:", ":1", "host:70000", "ho st:1"] {
            let error = NamenodeLink::new(vec![bad.to_owned()]).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad:?}");
        }
        assert!(NamenodeLink::new(Vec::new()).is_err());
    }
}
