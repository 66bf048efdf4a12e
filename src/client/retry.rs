//! When a call is attempted again.

use std::error::Error;
use std::time::Duration;

use tonic::{Code, Status};
use uuid::Uuid;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The code of a status. A status with a cause is not the server's: this side's transport made it, and calls a connection
/// that closed under a call by several names, `INTERNAL` even for one that was closed in good order before the server looked
/// at the call. For gRPC (`statuscodes.md`) a connection that broke is `UNAVAILABLE`, and time that ran out is
/// `DEADLINE_EXCEEDED`.
pub(super) fn code(status: &Status) -> Code {
    let Some(cause) = status.source() else { return status.code() };
    match status.code() {
        _ if ran_out_of_time(cause) => Code::DeadlineExceeded,
        Code::Internal | Code::Unknown | Code::Cancelled => Code::Unavailable,
        code @ (Code::Ok
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated) => code,
    }
}

fn ran_out_of_time(cause: &(dyn Error + 'static)) -> bool {
    cause.is::<tonic::TimeoutExpired>() || cause.source().is_some_and(ran_out_of_time)
}

/// Whether the same call may be sent again, under the same request id.
pub(super) fn may_retry(status: &Status) -> bool {
    match code(status) {
        Code::Unavailable | Code::Aborted => true,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

/// Waits before attempt `attempt` (the second is 1): twice as long each time, and anywhere in the upper half of that, so
/// that callers who failed together do not come back together.
pub(super) async fn pause(attempt: u32) {
    tokio::time::sleep(jittered(attempt, Uuid::now_v7().as_u128())).await;
}

fn jittered(attempt: u32, random: u128) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)));
    let half = doubled.min(LONGEST_PAUSE) / 2;
    // The low 62 bits of a UUIDv7 are random.
    let share = u32::try_from(random % 1_000).unwrap_or(0);
    half + half * share / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_worth_trying_again_is_tried_again() {
        for (status, again) in [
            (Status::unavailable(""), true),
            (Status::aborted(""), true),
            (Status::unknown("the server's own"), false),
            (Status::internal("the server's own"), false),
            (Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe))), true),
            (Status::deadline_exceeded(""), false),
            (Status::permission_denied(""), false),
        ] {
            assert_eq!(may_retry(&status), again, "{status:?}");
        }
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        assert_eq!(jittered(1, 0), Duration::from_millis(25));
        assert!(jittered(2, 999) < Duration::from_millis(100));
        for attempt in [0, 10, u32::MAX] {
            assert!(jittered(attempt, 999) <= LONGEST_PAUSE);
        }
    }
}
