#!/usr/bin/env bash
# What action.yml and ci/gitlab/edgessl-benchmark.yml run, at the root of a checkout: build the
# bundle of this commit and of its base, measure both in this job, judge. docs/ci.md explains it.
#
# Usage: benchmark.sh install | base | build head | build base | measure | judge | all
#
# From the environment:
#   BENCHMARK_BUILD      bash that makes the bundle, run at the root of either checkout
#   BENCHMARK_ARTIFACT   the bundle that it makes, relative to that root
#   BENCHMARK_BASE_REF   commit, tag or branch to compare with; empty finds it
#   BENCHMARK_BEFORE     commit before a push; empty where there is none
#   BENCHMARK_ARGUMENTS  more words for edgessl benchmark
#   BENCHMARK_FAIL_ON    verdicts that fail the job
#   BENCHMARK_HISTORY    JSONL that a line is appended to; empty writes none
#   BENCHMARK_INSTALL    what pip installs; empty takes the edgessl that this file belongs to
#   BENCHMARK_OUT        folder for everything that comes out
#   BENCHMARK_CACHE      folder for bundles of base commits
#
# Ends with 0; 1, 3 or 4 for a FAIL, INCONCLUSIVE or INVALID that fails the job; 2 without a verdict.
set -euo pipefail
shopt -s inherit_errexit

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly here
readonly out="${BENCHMARK_OUT:-edgessl-benchmark}"
readonly cache="${BENCHMARK_CACHE:-.edgessl-cache}"
readonly artifact="${BENCHMARK_ARTIFACT:-}"
readonly build="${BENCHMARK_BUILD:-}"
readonly kept_bundles=10

annotate() { # LEVEL MESSAGE
    if [[ "${GITHUB_ACTIONS:-}" == true ]]; then
        local text="${2//'%'/%25}"
        text="${text//$'\r'/%0D}"
        echo "::$1 title=edgessl benchmark::${text//$'\n'/%0A}" >&2
    else
        echo "$1: $2" >&2
    fi
}

die() {
    annotate error "$1"
    exit 2
}

give() { # NAME VALUE: an output of the step
    if [[ -n "${GITHUB_OUTPUT:-}" ]]; then
        printf '%s=%s\n' "$1" "$2" >>"$GITHUB_OUTPUT"
    fi
}

step_summary() {
    echo "${GITHUB_STEP_SUMMARY:-$out/summary.md}"
}

sha256_of() {
    sha256sum -- "$1" | cut -d ' ' -f 1
}

check_settings() {
    [[ -n "$build" ]] || die "no build command is set; say how a checkout becomes a bundle"
    [[ "$artifact" == *.edge && "$artifact" != /* ]] ||
        die "the artifact is '$artifact'; name the .edge file that the build makes, relative to the checkout"
    local verdict
    for verdict in $(fail_on); do
        [[ "$verdict" =~ ^(FAIL|INCONCLUSIVE|INVALID)$ ]] ||
            die "fail-on holds '$verdict'; choose from FAIL, INCONCLUSIVE, INVALID"
    done
}

fail_on() {
    echo "${BENCHMARK_FAIL_ON-FAIL}" | tr ',' ' '
}

install() {
    check_settings
    local what=("${here%/*}[compile,report]")
    if [[ -n "${BENCHMARK_INSTALL:-}" ]]; then
        read -r -d '' -a what <<<"$BENCHMARK_INSTALL" || true
    fi
    python -m pip install --disable-pip-version-check --quiet "${what[@]}" ||
        die "pip cannot install '${what[*]}'; see above"
}

# --- which commit is the base ---------------------------------------------------------------------

commit_of() { # REF: its commit, or nothing
    git rev-parse --verify --quiet --end-of-options "$1^{commit}" || true
}

fetch() { # REFSPEC, OPTION for a checkout without history
    local option=()
    if [[ "$(git rev-parse --is-shallow-repository)" == true ]]; then
        option=("$2")
    fi
    git fetch --quiet --no-tags ${option[@]+"${option[@]}"} origin "$1" >&2
}

fetched() { # REF: its commit, asked from the remote if it is not here
    local commit
    commit="$(commit_of "$1")"
    [[ -n "$commit" ]] || commit="$(commit_of "origin/$1")"
    if [[ -z "$commit" && "$1" =~ ^[[:alnum:]][[:graph:]]*$ ]] && fetch "$1" --depth=1; then
        commit="$(commit_of FETCH_HEAD)"
    fi
    echo "$commit"
}

base_commit() {
    local ref="${BENCHMARK_BASE_REF:-}" commit=""
    local branch="${GITHUB_BASE_REF:-${CI_MERGE_REQUEST_TARGET_BRANCH_NAME:-}}"
    local before="${BENCHMARK_BEFORE:-${CI_COMMIT_BEFORE_SHA:-}}"
    if [[ -n "$ref" ]]; then
        commit="$(fetched "$ref")"
    elif [[ -n "$branch" ]]; then
        # Of a merge commit, which CI may have made, this is the branch as it was merged.
        fetch "+refs/heads/$branch:refs/remotes/origin/$branch" --unshallow ||
            die "branch '$branch' cannot be fetched; check out with the whole history (fetch-depth: 0)"
        commit="$(git merge-base HEAD "refs/remotes/origin/$branch" || true)"
        ref="merge base with $branch"
    elif [[ "$before" =~ [1-9a-f] ]]; then # a new branch has zeros
        ref="$before"
        commit="$(fetched "$ref")"
    else
        ref="HEAD^"
        commit="$(commit_of "$ref")"
        if [[ -z "$commit" ]] && fetch "$(git rev-parse HEAD)" --deepen=1; then
            commit="$(commit_of "$ref")"
        fi
    fi
    [[ -n "$commit" ]] ||
        die "base '$ref' is not a commit here or on the remote; name another base-ref, or fetch it first"
    echo "$commit"
}

build_key() { # COMMIT: hash of all that its bundle is made of
    {
        git rev-parse "$1^{tree}"
        printf '%s\0' "$build" "$artifact"
        python "$here/toolchain.py"
    } | sha256sum | cut -d ' ' -f 1
}

base() {
    mkdir -p "$out"
    local commit key
    commit="$(base_commit)"
    key="$(build_key "$commit")" || die "python cannot import edgessl; see above"
    echo "$commit" >"$out/base-commit"
    echo "$key" >"$out/base-key"
    echo "base: $commit" >&2
    give commit "$commit"
    give key "$key"
    give cache "$cache/$key"
}

# --- bundles --------------------------------------------------------------------------------------

build_in() { # FOLDER NAME
    (cd "$1" && bash -euo pipefail -c "$build") >&2 </dev/null ||
        die "the build command failed for $2; see above"
    [[ -f "$1/$artifact" ]] || die "the build command made no $artifact for $2"
    cp -- "$1/$artifact" "$out/$2.edge"
    echo "$2.edge: sha256 $(sha256_of "$out/$2.edge")" >&2
}

build_head() {
    mkdir -p "$out"
    build_in . head
}

build_base() {
    local key
    key="$(<"$out/base-key")"
    if from_cache "$cache/$key"; then
        return
    fi
    scratch="$(mktemp -d "${RUNNER_TEMP:-${TMPDIR:-/tmp}}/edgessl-base.XXXXXX")"
    trap 'git worktree remove --force "$scratch/checkout" 2>/dev/null || true; rm -rf -- "$scratch"' EXIT
    git worktree add --quiet --detach "$scratch/checkout" "$(<"$out/base-commit")" >&2 ||
        die "the base commit cannot be checked out"
    build_in "$scratch/checkout" base
    mkdir -p "$cache/$key"
    cp -- "$out/base.edge" "$cache/$key/$(sha256_of "$out/base.edge").edge"
    forget_old
}

from_cache() { # FOLDER that holds one bundle, whose name is its sha256
    local found hash
    for found in "$1"/*.edge; do
        [[ -f "$found" ]] || return 1
        hash="$(basename -- "$found" .edge)"
        if [[ "$(sha256_of "$found")" == "$hash" ]]; then
            cp -- "$found" "$out/base.edge" || die "$out cannot be written"
            touch -- "$1"
            echo "base.edge: sha256 $hash, from the cache" >&2
            return 0
        fi
        annotate warning "the cached bundle $hash is damaged and is built again"
        rm -f -- "$found"
    done
    return 1
}

forget_old() {
    local number=0 folder
    # Names are hashes, made above.
    # shellcheck disable=SC2045
    for folder in $(ls -1t "$cache"); do
        number=$((number + 1))
        ((number <= kept_bundles)) || rm -rf -- "${cache:?}/$folder"
    done
}

# --- the measurement ------------------------------------------------------------------------------

measure() {
    local words=() code=0 found verdict ratio
    read -r -d '' -a words <<<"${BENCHMARK_ARGUMENTS:-}" || true
    if [[ -n "${BENCHMARK_HISTORY:-}" ]]; then
        words+=(--history "$BENCHMARK_HISTORY" --label "$(git rev-parse HEAD)")
    fi
    rm -f -- "$out/result.json" "$out/verdict" "$out/junit.xml" "$out/summary.md"
    edgessl benchmark "$out/head.edge" --against "$out/base.edge" \
        --json "$out/result.json" --junit "$out/junit.xml" --markdown "$(step_summary)" \
        ${words[@]+"${words[@]}"} || code=$?
    # Without a result a crash of head.edge and a missing engine look alike; neither may pass.
    [[ -f "$out/result.json" ]] || die "edgessl benchmark ended with $code and left no result; see above"
    found="$(python "$here/verdict.py" "$out/result.json")" ||
        die "edgessl benchmark ended with $code and has no verdict; see above"
    read -r verdict ratio <<<"$found"
    case "$verdict:$code" in
    PASS:0 | none:0 | FAIL:1 | INCONCLUSIVE:3 | INVALID:4) ;;
    *) die "edgessl benchmark ended with $code although it found $verdict; see above" ;;
    esac
    printf '\nhead %s, base %s\n' "$(git rev-parse HEAD)" "$(<"$out/base-commit")" >>"$(step_summary)"
    echo "$verdict" >"$out/verdict"
    give verdict "$verdict"
    give ratio-p50 "$ratio"
    give result "$out/result.json"
}

judge() {
    local verdict code
    verdict="$(<"$out/verdict")"
    case "$verdict" in
    FAIL) code=1 ;;
    INCONCLUSIVE) code=3 ;;
    INVALID) code=4 ;;
    *) return ;;
    esac
    if [[ " $(fail_on) " == *" $verdict "* ]]; then
        annotate error "$verdict; the summary says why"
        exit "$code"
    fi
    annotate warning "$verdict, which does not fail this job; the summary says why"
}

main() {
    case "$*" in
    install | base | measure | judge) "$1" ;;
    "build head") build_head ;;
    "build base") build_base ;;
    all)
        install
        base
        build_head
        build_base
        measure
        judge
        ;;
    *) die "'$*' is not a step; choose install, base, build head, build base, measure, judge or all" ;;
    esac
}

main "$@"
