//! Signed by a key that we trust, and still refused: an insider with the key, or a holder who extends a token, gets
//! nothing that mint would not have written, and cannot make us compute.

use std::time::{Duration, Instant};

use biscuit_auth::builder::{BlockBuilder, Scope, fact, string};
use biscuit_auth::datalog::SymbolTable;
use biscuit_auth::{Algorithm, Biscuit, KeyPair};
use countersign_token::{Limits, TokenError, verify};

use crate::fixture::{ISSUED, at, claims, encode, forged, minted, pair, presented, read, ring, sealed, source};

fn not_ours(text: &str) -> &'static str {
    match read(text) {
        Err(TokenError::NotOurs(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_same_words_under_the_same_key_are_accepted() {
    // The control for this file: what follows is refused for its contents, not for the way it was made.
    let verified = read(&sealed(&forged(&source()))).unwrap();
    assert_eq!(*verified.claims(), claims());
    assert_eq!(verified.authorize(&presented(&claims())), Ok(()));
}

#[test]
fn an_unsealed_token_is_refused() {
    assert_eq!(not_ours(&encode(&forged(&source()).to_vec().unwrap())), "it is not sealed");
}

#[test]
fn appended_blocks_are_refused() {
    let token = forged(&source());
    for block in [
        BlockBuilder::new(),
        BlockBuilder::new().code("check if true").unwrap(),
        BlockBuilder::new().code("digest(hex:00); presented_digest(hex:00); audience(\"other\")").unwrap(),
        BlockBuilder::new().code("presented_tenant(\"other\") <- tenant($t)").unwrap(),
    ] {
        let appended = token.append(block).unwrap();
        assert_eq!(not_ours(&sealed(&appended)), "blocks were appended to it");
        assert_eq!(not_ours(&encode(&appended.to_vec().unwrap())), "blocks were appended to it");
    }
    // A minted one leaves no key to append with.
    assert!(crate::fixture::biscuit(minted().expose()).append(BlockBuilder::new()).is_err());
}

#[test]
fn blocks_of_third_parties_are_refused() {
    let stranger = KeyPair::new();
    let token = forged(&source());
    let request = token.third_party_request().unwrap();
    let block = request.create_block(&stranger.private(), BlockBuilder::new().code("a(1)").unwrap()).unwrap();
    let appended = token.append_third_party(stranger.public(), block).unwrap();
    assert_eq!(not_ours(&sealed(&appended)), "blocks were appended to it");
}

#[test]
fn a_malleable_next_key_is_refused() {
    let next = KeyPair::new_with_algorithm(Algorithm::Secp256r1);
    let token = Biscuit::builder().root_key_id(1).code(source()).unwrap();
    let token = token.build_with_key_pair(&pair(), SymbolTable::new(), &next).unwrap();
    assert_eq!(not_ours(&sealed(&token)), "its next key is not an Ed25519 key");
}

#[test]
fn every_line_must_stand_once_in_its_place() {
    let source = source();
    let lines: Vec<&str> = source.lines().collect();
    for place in 0..lines.len() {
        let mut changed = lines.clone();
        // Without them the token is a shorter form of the same shape, and says so in its claims.
        if !["operator(", "approval("].iter().any(|optional| lines[place].starts_with(optional)) {
            changed.remove(place);
            not_ours(&sealed(&forged(&changed.join("\n"))));
        }

        changed = lines.clone();
        changed.push(lines[place]);
        not_ours(&sealed(&forged(&changed.join("\n"))));

        changed = lines.clone();
        changed.insert(place, lines[place]);
        not_ours(&sealed(&forged(&changed.join("\n"))));

        // Facts and checks are kept apart in the bytes, so their order among each other is none.
        if place > 0 && lines[place].starts_with("check") == lines[place - 1].starts_with("check") {
            changed = lines.clone();
            changed.swap(place, place - 1);
            not_ours(&sealed(&forged(&changed.join("\n"))));
        }
    }
}

#[test]
fn what_mint_does_not_write_is_refused() {
    let source = source();
    for (from, to) in [
        ("countersign(1)", "countersign(2)"),
        ("shard(3)", "shard(\"3\")"),
        ("shard(3)", "shard(-1)"),
        ("shard(3)", "shard(4294967296)"),
        ("shard(3)", "shard(3, 3)"),
        ("mint_epoch(12)", "mint_epoch(-1)"),
        ("development(false)", "development(0)"),
        ("development(false)", "development(\"false\")"),
        ("token_id(\"cap_", "token_id(\"CAP_"),
        ("tenant(\"acme\")", "tenant(\"Acme\")"),
        ("principal(\"Agent\"", "principal(\"A gent\""),
        ("operation(\"export\")", "operation(\"\")"),
        ("digest(hex:", "digest(hex:00"),
        ("presented_tenant(\"acme\")", "presented_tenant(\"acme\") or true"),
        ("check if presented_tenant(\"acme\")", "check if true"),
        ("check if presented_tenant(\"acme\")", "check all presented_tenant(\"acme\")"),
        ("$now < ", "$now <= "),
        ("$now < 176", "$now < 276"),
        ("expires_at(176", "expires_at(276"),
        ("presented_digest(hex:", "presented_digest(hex:00"),
    ] {
        assert!(source.contains(from), "{from}");
        not_ours(&sealed(&forged(&source.replacen(from, to, 1))));
    }
    for more in ["a(1)", "a($x) <- shard($x)", "check if true", "reject if false", "tenant(\"other\")"] {
        not_ours(&sealed(&forged(&format!("{source}\n{more};"))));
        not_ours(&sealed(&forged(&format!("{more};\n{source}"))));
    }
    let token = Biscuit::builder().root_key_id(1).code(&source).unwrap().scope(Scope::Previous);
    not_ours(&sealed(&token.build(&pair()).unwrap()));
    let token = Biscuit::builder().root_key_id(1).code(&source).unwrap().context("more".into());
    not_ours(&sealed(&token.build(&pair()).unwrap()));
    not_ours(&sealed(&Biscuit::builder().root_key_id(1).build(&pair()).unwrap()));
}

/// Far more than a refusal takes (well below a millisecond), far less than any of these bombs.
const BUDGET: Duration = Duration::from_millis(250);

fn refused_at_once(text: &str) -> TokenError {
    let start = Instant::now();
    let error = read(text).unwrap_err();
    assert!(start.elapsed() < BUDGET, "{:?}", start.elapsed());
    error
}

#[test]
fn a_join_bomb_is_refused_before_it_runs() {
    let mut bomb = source();
    for i in 0..40 {
        bomb.push_str(&format!("\nn({i});"));
    }
    bomb.push_str("\np($a, $b, $c, $d, $e) <- n($a), n($b), n($c), n($d), n($e);");
    bomb.push_str("\ncheck if n($a), n($b), n($c), n($d), n($e), n($f), $a + $b + $c + $d + $e + $f === 1000;");
    assert!(matches!(refused_at_once(&sealed(&forged(&bomb))), TokenError::NotOurs(_)));
}

#[test]
fn a_regex_bomb_is_refused_before_it_runs() {
    let bomb = format!("{}\ncheck if \"{}\".matches(\"((a{{9}}){{9}}){{99}}b\");", source(), "a".repeat(900));
    assert!(matches!(refused_at_once(&sealed(&forged(&bomb))), TokenError::NotOurs(_)));
}

#[test]
fn a_nested_bomb_is_refused_before_it_runs() {
    let bomb = format!("{}\ncheck if {}true{};", source(), "(".repeat(40), ")".repeat(40));
    assert!(matches!(refused_at_once(&sealed(&forged(&bomb))), TokenError::NotOurs(_)));
}

#[test]
fn ten_thousand_blocks_are_not_even_decoded() {
    // Appending signs each time; repeating one encoded block looks the same to whoever has not verified it.
    let token = forged(&source()).append(BlockBuilder::new()).unwrap();
    let with_one = token.container().to_vec().unwrap();
    let without = forged(&source()).container().to_vec().unwrap();
    let proof = 2 + 2 + 32;
    let block = &with_one[without.len() - proof..with_one.len() - proof];
    let head = &with_one[..without.len() - proof];
    let many = [head, &block.repeat(10_000), &with_one[with_one.len() - proof..]].concat();
    assert!(matches!(refused_at_once(&encode(&many)), TokenError::TooLarge { .. }));

    let start = Instant::now();
    let no_limit = Limits { text_bytes: usize::MAX, ..Limits::default() };
    let refused = verify(&encode(&many), &ring(), at(ISSUED), &no_limit).map(drop);
    assert_eq!(refused, Err(TokenError::NotOurs("more blocks were appended to it than may be")));
    assert!(start.elapsed() < BUDGET, "{:?}", start.elapsed());
}

#[test]
fn a_hoard_of_facts_is_refused() {
    let mut token = Biscuit::builder().root_key_id(1).code(source()).unwrap();
    for i in 0..500 {
        token = token.fact(fact("x", &[string(&i.to_string())])).unwrap();
    }
    let text = sealed(&token.build(&pair()).unwrap());
    assert!(matches!(refused_at_once(&text), TokenError::TooLarge { .. }));
    let no_limit = Limits { text_bytes: usize::MAX, ..Limits::default() };
    assert!(matches!(verify(&text, &ring(), at(ISSUED), &no_limit), Err(TokenError::NotOurs(_))));
}
