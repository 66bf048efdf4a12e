//! The review of broken glass: who knows of it, and who closes it.

use super::*;

#[tokio::test]
async fn who_broke_the_glass_cannot_close_the_review() {
    let scene = Scene::new().await;
    scene.change("service:sync", &[person("nick", &["on-call", "owners", "reviewers"])]).await.unwrap();
    let review = scene.break_glass("docs").await.unwrap().review.unwrap();
    assert_eq!(refused(scene.close("nick", review).await), GlassError::Own(entity("Person::\"nick\"")));
    // gina owns the gate that it was done through.
    assert_eq!(refused(scene.close("gina", review).await), GlassError::Excluded(entity("Person::\"gina\"")));
    // dana was passed over, and may look at it; that is no permission to close it.
    let denied = scene.close("dana", review).await;
    assert!(matches!(denied, Err(Error::AdministrationDenied { action: "reviewBreakGlass", .. })), "{denied:?}");
    for who in ["agent:bot", "service:gate"] {
        assert!(matches!(scene.close(who, review).await, Err(Error::NotAPerson(_))), "{who}");
    }
    let through = call_via("rita", &["agent:bot"], "CloseReview");
    let through = scene.engine.close_review(&through, review, "x").await;
    assert!(matches!(through, Err(Error::NotAPerson(_))), "{through:?}");
    scene.close("rita", review).await.unwrap();
    let record = scene.records().await.pop().unwrap();
    assert_eq!((&record["kind"], &record["review"]), (&json!("review_closed"), &json!(review)));
    assert_eq!((&record["person"]["id"], &record["comment"]), (&json!("nick"), &json!("looked at")));
    assert_eq!((&record["determining"], &record["caller"]["entity"]["id"]), (&json!(["reviewers"]), &json!("rita")));
    assert!(matches!(refused(scene.close("rita", review).await), GlassError::Closed(_)));
}

#[tokio::test]
async fn who_comes_to_own_what_the_glass_was_broken_for_does_not_close_the_review() {
    let scene = Scene::new().await;
    let review = scene.break_glass("docs").await.unwrap().review.unwrap();
    scene
        .publish(2, |files| {
            let entities = files.get_mut("entities.json").unwrap();
            *entities =
                entities.replace("\"id\":\"gina\"", "\"id\":\"rita\"").replace("\"id\": \"gina\"", "\"id\": \"rita\"");
        })
        .await;
    assert_eq!(refused(scene.close("rita", review).await), GlassError::Excluded(entity("Person::\"rita\"")));
    // And gina, who was excluded then, stays so.
    assert_eq!(refused(scene.close("gina", review).await), GlassError::Excluded(entity("Person::\"gina\"")));
}

#[tokio::test]
async fn a_review_is_known_to_those_whom_it_concerns() {
    let scene = Scene::new().await;
    let review = scene.break_glass("docs").await.unwrap().review.unwrap();
    for who in ["nick", "gina", "dana", "dave", "rita"] {
        let shown = scene.engine.review(&call(who, "GetReview"), review).await.unwrap();
        assert_eq!(shown.may_close, who == "rita", "{who}");
        let listed = scene.engine.reviews(&call(who, "ListReviews"), None, 10).await.unwrap();
        assert_eq!(listed.items.len(), 1, "{who}");
    }
    for who in ["una", "agent:bot", "olivia"] {
        let hidden = scene.engine.review(&call(who, "GetReview"), review).await;
        assert!(matches!(hidden, Err(Error::ReviewNotFound)), "{who}: {hidden:?}");
        let listed = scene.engine.reviews(&call(who, "ListReviews"), None, 10).await.unwrap();
        assert!(listed.items.is_empty(), "{who}");
    }
    assert!(matches!(scene.close("una", review).await, Err(Error::ReviewNotFound)));
    let unknown = scene.close("rita", ReviewId::generate()).await;
    assert!(matches!(unknown, Err(Error::ReviewNotFound)), "{unknown:?}");
    scene
        .publish(2, |files| {
            let all = r#"@id("all") permit (principal == Person::"una", action == Action::"readApprovals", resource);"#;
            files.get_mut("admin/admin.cedar").unwrap().push_str(all);
        })
        .await;
    scene.engine.review(&call("una", "GetReview"), review).await.unwrap();
}

#[tokio::test]
async fn a_review_is_closed_once_however_often_it_is_sent_and_with_words() {
    let scene = Scene::new().await;
    let review = scene.break_glass("docs").await.unwrap().review.unwrap();
    let empty = scene.engine.close_review(&call("rita", "CloseReview"), review, "").await;
    assert!(matches!(empty, Err(Error::InvalidField { ref field, .. }) if field == "comment"), "{empty:?}");
    let same = call("rita", "CloseReview");
    assert!(!scene.engine.close_review(&same, review, "fine").await.unwrap().replayed);
    let again = scene.engine.close_review(&same, review, "fine").await.unwrap();
    let closing = again.answer.review.value.closing().unwrap();
    assert!(again.replayed && closing.comment == "fine" && closing.by.id() == "rita");
}

#[tokio::test]
async fn reviews_are_listed_in_pages_the_newest_first() {
    let glass = GlassBudget { times: 100, within: HOUR };
    let scene = Scene::with(Parts { limits: Limits { glass, ..Limits::default() }, ..parts() }).await;
    let mut opened = Vec::new();
    for _time in 0..5 {
        let review = scene.break_glass("docs").await.unwrap().review.unwrap();
        scene.close("rita", review).await.unwrap();
        opened.insert(0, review);
    }
    let (mut listed, mut before) = (Vec::new(), None);
    loop {
        let page = scene.engine.reviews(&call("rita", "ListReviews"), before, 2).await.unwrap();
        listed.extend(page.items.iter().map(|view| view.review.value.id));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(listed, opened);
}

#[tokio::test]
async fn what_no_longer_counts_is_tidied_away_and_open_reviews_are_not() {
    let scene = Scene::new().await;
    let review = scene.break_glass("docs").await.unwrap().review.unwrap();
    scene.clock.advance(Duration::from_secs(2 * 86_400));
    scene.engine.tidy().await.unwrap();
    let session = open_as(&scene, &call("nick", "OpenSession"), None).await.unwrap();
    let ask = BreakGlass { session, ..scene.breaking("export", "docs") };
    assert!(matches!(refused(scene.break_as(&call("nick", "BreakGlass"), &ask).await), GlassError::ReviewOpen { .. }));
    scene.close("rita", review).await.unwrap();
    assert_eq!(scene.engine.tidy().await.unwrap(), 1, "when the glass was broken");
    assert!(scene.engine.review(&call("rita", "GetReview"), review).await.is_ok(), "a review stays");
}
