//! gRPC calls of this DataNode to others, which all have a deadline.

use std::time::Duration;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::status::from_status;

/// Makes a call with a deadline.
pub(super) async fn call<T>(
    deadline: Duration,
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T> {
    match tokio::time::timeout(deadline, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(from_status(&status)),
        Err(_) => Err(DfsError::new(ErrorKind::TimedOut, format!("no answer within {deadline:?}"))),
    }
}
