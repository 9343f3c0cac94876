//! Whether NameNodes under other names are those of the cluster that is addressed. Names do not tell: one machine has
//! several, and several machines may have one after the other. So whoever answers there is asked which cluster it is.

use std::time::Duration;

use dfs_client::{ClientConfig, DfsClient, ServerDefaults};
use futures::future::join_all;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::failure::Failure;

/// How long an answer is waited for: it is one small call, and the one that a copy is for may not be up at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// What there is to be said of NameNodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// They are the addressed cluster's.
    Same,
    /// They are another cluster's, or of another name space of it.
    Other,
    /// Nobody answers, or there are no such machines.
    None,
    /// Somebody is there, and could not be asked. Why.
    Untold(String),
}

/// Asks the NameNodes at these addresses, any of which speaks for all.
pub(crate) async fn ask(ours: &ServerDefaults, namenodes: &[String]) -> Answer {
    // First whether anybody is there: a client would try again and again, and warn of it.
    let look = async |address: &String| {
        let connected = timeout(PATIENCE, TcpStream::connect(address)).await;
        matches!(connected, Ok(Ok(_))).then(|| address.clone())
    };
    let there: Vec<String> = join_all(namenodes.iter().map(look)).await.into_iter().flatten().collect();
    if there.is_empty() {
        return Answer::None;
    }
    let config = ClientConfig {
        namenodes: there,
        connect_timeout: PATIENCE,
        metadata_deadline: PATIENCE,
        ..ClientConfig::new(Vec::new())
    };
    match DfsClient::connect(config).await {
        Ok(theirs) if is_same(ours, theirs.defaults()) => Answer::Same,
        Ok(_) => Answer::Other,
        Err(error) => Answer::Untold(Failure::cluster(error).with_hint("").to_string()),
    }
}

/// One cluster may have several name spaces, each with a block pool.
fn is_same(ours: &ServerDefaults, theirs: &ServerDefaults) -> bool {
    (&ours.cluster_id, &ours.block_pool_id) == (&theirs.cluster_id, &theirs.block_pool_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cluster: &str, pool: &str) -> ServerDefaults {
        ServerDefaults {
            block_size: 1,
            replication: 1,
            bytes_per_checksum: 512,
            packet_size: 1,
            min_block_size: 1,
            max_blocks_per_file: 1,
            cluster_id: cluster.to_owned(),
            block_pool_id: pool.to_owned(),
            software_version: String::new(),
        }
    }

    #[tokio::test]
    async fn ask_tells_apart_who_cannot_be_asked_and_who_is_not_there() {
        use tokio::io::AsyncWriteExt;
        use tokio::net::TcpListener;
        let ours = of("CID-1", "BP-1");
        let (odd, away) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await);
        let (here, there) = (odd.local_addr().unwrap().to_string(), away.unwrap().local_addr().unwrap().to_string());
        tokio::spawn(async move {
            while let Ok((mut caller, _)) = odd.accept().await {
                let _ = caller.write_all(b"220 mail.example ready\r\n").await;
            }
        });
        assert_eq!(ask(&ours, std::slice::from_ref(&there)).await, Answer::None);
        let untold = ask(&ours, &[there, here]).await;
        assert!(matches!(&untold, Answer::Untold(words) if !words.is_empty()), "{untold:?}");
    }

    #[test]
    fn is_same_asks_for_cluster_and_name_space() {
        let ours = of("CID-1", "BP-1");
        for (theirs, expected) in
            [(of("CID-1", "BP-1"), true), (of("CID-1", "BP-2"), false), (of("CID-2", "BP-1"), false)]
        {
            assert_eq!(is_same(&ours, &theirs), expected, "{theirs:?}");
        }
    }
}
