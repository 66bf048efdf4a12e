//! Couriers: in order, again and again, and no further than their bounds.

use super::*;

fn courier(told: &Told, sink: &FakeSink) -> Courier<MemoryKernel> {
    told.engine.courier("all", sink.sink()).unwrap()
}

fn ids(told: &[Notification]) -> Vec<countersign_core::NotificationId> {
    told.iter().map(|n| n.id).collect()
}

#[tokio::test]
async fn notifications_of_a_request_are_delivered_in_order_and_then_gone() {
    let told = Told::new(vec![settings("all")]).await;
    let (first, second) = (told.ask_about("one").await, told.ask_about("two").await);
    told.vote("dana", first).await.unwrap();
    told.vote("dana", second).await.unwrap();
    let expected = told.queued("all").await;
    let taken = told.deliver("all").await;
    for id in [first, second] {
        let of = |all: &[Notification]| all.iter().filter(|n| n.approval == Some(id)).cloned().collect::<Vec<_>>();
        assert_eq!(of(&taken), of(&expected));
    }
    assert_eq!(taken.len(), 6);
    assert_eq!(told.queued("all").await, []);
    assert_eq!(told.deliver("all").await, []);
    let state = told.engine.sink_reports().remove(0).state;
    assert_eq!((state.delivered, state.failed, state.backlog), (6, 0, 0));
}

#[tokio::test]
async fn what_comes_while_a_courier_works_is_delivered_too() {
    let told = Told::new(vec![settings("all")]).await;
    let sink = FakeSink::default();
    let working = async {
        let approval = told.ask().await;
        told.vote("dana", approval).await.unwrap();
        while sink.taken().len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        done = tokio::time::timeout(Duration::from_secs(60), working) => done.unwrap(),
        ended = courier(&told, &sink).run() => panic!("{ended:?}"),
    }
    assert_eq!(sink.taken().iter().map(|n| n.kind).collect::<Vec<_>>(), [Asked, Voted, Decided]);
}

#[tokio::test]
async fn a_request_that_cannot_be_told_waits_longer_each_time_and_others_go_on() {
    let told = Told::new(vec![settings("all")]).await;
    let stuck = told.ask_about("stuck").await;
    told.vote("dana", stuck).await.unwrap();
    let free = told.ask_about("free").await;
    let sink = FakeSink::default();
    sink.refuse(move |n| n.approval == Some(stuck));
    let mut courier = courier(&told, &sink);
    let mut now = START;
    for (wait, attempts) in [(1, 1), (2, 2), (4, 3), (8, 4)] {
        let due = courier.step().await.unwrap().unwrap();
        assert_eq!(due, now.plus(Duration::from_secs(wait)));
        assert_eq!(told.engine.sink_reports()[0].state.failed, attempts);
        assert_eq!(courier.step().await.unwrap(), Some(due), "not before its time");
        assert_eq!(told.engine.sink_reports()[0].state.failed, attempts);
        now = due;
        told.pass(wait);
    }
    assert_eq!(sink.taken().iter().map(|n| n.approval).collect::<Vec<_>>(), [Some(free)]);
    assert!(!told.engine.sink_reports()[0].state.down, "one request is not the sink");
    sink.refuse(|_| false);
    while courier.step().await.unwrap().is_some() {}
    let of_stuck: Vec<_> = sink.taken().into_iter().filter(|n| n.approval == Some(stuck)).map(|n| n.kind).collect();
    assert_eq!(of_stuck, [Asked, Voted, Decided]);
}

#[tokio::test]
async fn after_so_many_attempts_it_is_a_dead_letter_and_what_follows_goes_on() {
    let told = Told::new(vec![settings("all")]).await;
    let approval = told.ask().await;
    told.vote("dana", approval).await.unwrap();
    let sink = FakeSink::default();
    sink.refuse(|n| n.kind == Asked);
    let mut courier = courier(&told, &sink);
    while let Some(due) = courier.step().await.unwrap() {
        let now = told.engine.now().unwrap();
        told.clock.advance(due.since(now));
    }
    assert_eq!(sink.tried(), 5 + 2);
    assert_eq!(sink.taken().iter().map(|n| n.kind).collect::<Vec<_>>(), [Voted, Decided]);
    let letters = told.engine.dead_letters(&call("adam", "ListDeadLetters"), None, None, 10).await.unwrap().items;
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].attempts, letters[0].error.as_str()), (5, "answered 500"));
    assert_eq!((letters[0].notification.kind, letters[0].sink.as_str()), (Asked, "all"));
    assert_eq!(told.queued("all").await, []);
}

#[tokio::test]
async fn what_was_delivered_and_not_yet_noted_is_delivered_again_with_the_same_id() {
    for (fault, again) in [(Fault::CrashBefore, 1), (Fault::CrashAfter, 0)] {
        let told = Told::new(vec![settings("all")]).await;
        told.ask().await;
        let sink = FakeSink::default();
        told.kernel().fail_point().arm(fault);
        assert!(courier(&told, &sink).step().await.is_err());
        let told = told.restarted(vec![settings("all")]).await;
        let repeated = told.deliver("all").await;
        assert_eq!(repeated.len(), again, "{fault:?}");
        assert!(repeated.iter().all(|n| ids(&sink.taken()).contains(&n.id)));
    }
}

#[tokio::test]
async fn a_sink_that_is_down_is_probed_and_gets_everything_in_order_when_it_is_back() {
    let told = Told::new(vec![SinkSettings { attempts: 1_000, ..settings("all") }]).await;
    let mut asked = Vec::new();
    for number in 0..20 {
        let approval = told.ask_about(&number.to_string()).await;
        told.vote("dana", approval).await.unwrap();
        asked.push(approval);
    }
    let sink = FakeSink::default();
    sink.refuse(|_| true);
    let mut courier = courier(&told, &sink);
    // Ten minutes: a probe each half a minute at most, however much waits.
    for _ in 0..600 {
        courier.step().await.unwrap();
        told.pass(1);
    }
    assert!(told.engine.sink_reports()[0].state.down);
    assert!((20..40).contains(&sink.tried()), "{}", sink.tried());
    sink.refuse(|_| false);
    told.pass(30);
    for _ in 0..100 {
        courier.step().await.unwrap();
    }
    let taken = sink.taken();
    assert_eq!(taken.len(), 60, "none waits for a back-off of its own");
    for id in asked {
        let of: Vec<_> = taken.iter().filter(|n| n.approval == Some(id)).map(|n| n.kind).collect();
        assert_eq!(of, [Asked, Voted, Decided]);
    }
    assert!(!told.engine.sink_reports()[0].state.down);
}

#[tokio::test]
async fn one_that_hangs_holds_neither_other_requests_nor_other_sinks_nor_calls() {
    let told = Told::new(vec![settings("all"), settings("other")]).await;
    let hung = told.ask_about("hung").await;
    let (sink, other) = (FakeSink::default(), FakeSink::default());
    sink.hang(move |n| n.approval == Some(hung));
    other.hang(|_| true);
    let working = async {
        while sink.tried() < 1 || other.tried() < 1 {
            tokio::task::yield_now().await;
        }
        for number in 0..10 {
            let approval = told.ask_about(&number.to_string()).await;
            told.vote("dana", approval).await.unwrap();
        }
        while sink.taken().len() < 30 || other.tried() < 4 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        done = tokio::time::timeout(Duration::from_secs(60), working) => done.unwrap(),
        ended = courier(&told, &sink).run() => panic!("{ended:?}"),
        ended = told.engine.courier("other", other.sink()).unwrap().run() => panic!("{ended:?}"),
    }
    assert_eq!((other.taken().len(), other.tried()), (0, 4), "no more than a few are under way");
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_has_failed() {
    let short = SinkSettings { timeout: Duration::from_millis(1), ..settings("all") };
    let told = Told::new(vec![short]).await;
    told.ask().await;
    let sink = FakeSink::default();
    sink.hang(|_| true);
    courier(&told, &sink).step().await.unwrap();
    let (_, error) = told.engine.sink_reports().remove(0).state.last_failure.unwrap();
    assert_eq!(error, "no answer within 0.001 s");
}

#[tokio::test]
async fn backlog_and_dead_letters_are_bounded_in_number_and_age() {
    let small = SinkSettings { backlog: 4, dead_letters: 3, ..settings("all") };
    let told = Told::new(vec![small]).await;
    for number in 0..10 {
        told.ask_about(&number.to_string()).await;
    }
    let expected = told.queued("all").await;
    let sink = FakeSink::default();
    sink.refuse(|_| true);
    let mut courier = courier(&told, &sink);
    courier.step().await.unwrap();
    assert_eq!(ids(&told.queued("all").await), ids(&expected[6..]), "the oldest are given up");
    courier.step().await.unwrap();
    let state = told.engine.sink_reports().remove(0).state;
    assert_eq!((state.backlog, state.dead_letters, state.given_up, state.forgotten), (4, 3, 6, 3));
    // A day later nothing is worth trying any more, and two weeks later nobody looks for it.
    told.pass(86_400);
    courier.step().await.unwrap();
    assert_eq!(told.queued("all").await, []);
    told.pass(15 * 86_400);
    courier.step().await.unwrap();
    let letters = told.engine.dead_letters(&call("adam", "ListDeadLetters"), None, None, 10).await.unwrap();
    assert_eq!(letters.items, []);
}

#[tokio::test]
async fn a_service_that_was_down_for_long_tries_before_it_gives_up() {
    let told = Told::new(vec![settings("all")]).await;
    told.ask().await;
    told.pass(3 * 86_400);
    let told = told.restarted(vec![settings("all")]).await;
    assert_eq!(told.deliver("all").await.len(), 1);
}

#[tokio::test]
async fn what_waits_for_a_sink_that_is_gone_is_kept_for_a_while() {
    let told = Told::new(vec![settings("all"), settings("gone")]).await;
    told.ask().await;
    let told = told.restarted(vec![settings("all")]).await;
    told.pass(13 * 86_400);
    told.engine.tidy().await.unwrap();
    assert_eq!((told.queued("all").await.len(), told.queued("gone").await.len()), (1, 1));
    told.pass(2 * 86_400);
    told.engine.tidy().await.unwrap();
    assert_eq!((told.queued("all").await.len(), told.queued("gone").await.len()), (1, 0));
}
