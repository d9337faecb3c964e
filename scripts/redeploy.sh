#!/usr/bin/env bash
# Brings a newer version into service, and the one before back when the newer one doesn't serve.
# scripts/redeploy.sh --help says how.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'END'
Usage: scripts/redeploy.sh [COMMIT]

Backs up, fetches, installs, applies new steps of schema/, reloads, and looks whether the new version
serves; if not, it goes back to the one before. Without COMMIT it takes what origin has of the branch
that is checked out (of main, if none is). Run it as the owner of the folder. Killed at any moment,
run it again.

  RELOAD_COMMAND      what makes the service start anew; else systemd or PM2 is asked, whichever
                      runs clawd-backend from this folder
  HEALTH_URL          where it answers                       (http://127.0.0.1:8002)
  HEALTH_SECONDS      how long a new version may take        (60)
  POSTGRES_ADMIN_URL  a superuser, for `./clawd init-postgres`, where the service's own role may not
                      change the tables

Exit codes: 0 it serves, or did already; 1 it doesn't, the version before serves again; 2 refused,
nothing was changed; 3 another one is at work; 4 neither serves: what to do is said.

Examples:

  scripts/redeploy.sh
  scripts/redeploy.sh v1.4.2
  RELOAD_COMMAND='supervisorctl restart clawd' scripts/redeploy.sh
END
}

say() { printf 'redeploy: %s\n' "$*"; }
die() { local code=$1; shift; say "$*" >&2; exit "$code"; }
short() { git rev-parse --short "$1"; }

# Where it is, and what an earlier run that was broken off has left.

prepare() {
    [[ -O . ]] || die 2 "this folder is $(stat -c %U .)'s: sudo -u $(stat -c %U .) scripts/redeploy.sh"
    local tool
    for tool in curl flock git; do
        command -v "$tool" >/dev/null || die 2 "needs $tool"
    done
    own=$(git rev-parse --absolute-git-dir)/clawd-redeploy || die 2 "this is no git checkout"
    mkdir -p "$own"
    exec 9>"$own/lock"
    flock --nonblock 9 || die 3 "another one is at work"
    unlock_git
}

# A git that is killed leaves its locks for ever, and every later one is refused.
unlock_git() {
    local tries=0 trees
    trees=$(git worktree list --porcelain | sed -n 's/^worktree //p')
    while git_is_at_work "$trees"; do
        ((++tries < 50)) || return 0
        sleep 0.1
    done
    find "$(git rev-parse --git-common-dir)" -name '*.lock' -delete
}

# Whether somebody's git works in one of these folders, or below.
git_is_at_work() {
    local process tree folder name
    for process in /proc/[0-9]*; do
        { read -r name <"$process/comm"; } 2>/dev/null && [[ $name == git ]] || continue
        folder=$(readlink "$process/cwd") || continue
        while read -r tree; do
            [[ $folder/ != "$tree"/* ]] || return 0
        done <<<"$1"
    done
    return 1
}

# What the run knows, for the next one should it be broken off.
remember() {
    printf '%s\n' "$backup" >"$own/backup"
    printf '%s\n' "$from" "$to" "$branch" >"$own/run.part"
    mv "$own/run.part" "$own/run"
}

take_up() {
    [[ -e $own/run ]] || return 0
    { read -r from; read -r to; read -r branch; } <"$own/run"
    say "an earlier run was broken off; from the start again, at $(short "$from")"
    # There first: files that were written before git could note them down would stay otherwise,
    # a step of schema/ among them.
    git checkout --quiet --force --detach "$to"
    put_back
}

# What makes the service start anew, in stages: after each, part of the service may be the new one.
# Only the service of this folder: another one, of the same name, may be production.
find_manager() {
    if [[ -n ${RELOAD_COMMAND-} ]]; then
        stages=("$RELOAD_COMMAND")
        stop='# stop the service' start='# start it'
    elif [[ $(systemctl show --property=WorkingDirectory --value clawd-backend 2>/dev/null) -ef . ]]; then
        local sudo=''
        ((EUID == 0)) || sudo='sudo -n '
        stages=("${sudo}systemctl restart clawd-backend")
        stop='sudo systemctl stop clawd-backend' start='sudo systemctl start clawd-backend'
    elif command -v pm2 >/dev/null && pm2_has_it; then
        stop='pm2 stop clawd-backend' start='pm2 start clawd-backend'
    else
        die 2 "neither systemd nor PM2 runs clawd-backend in this folder: set RELOAD_COMMAND"
    fi
}

# One process at a time: while the first can't start, the others serve.
pm2_has_it() {
    local ids id
    # Before its first daemon PM2 prints a drawing.
    ids=$(pm2 jlist 9>&- | tail -n 1 | venv/bin/python -c '
import json, os, sys
for process in json.load(sys.stdin):
    here = os.path.realpath(process["pm2_env"]["pm_cwd"]) == os.path.realpath(".")
    if here and process["name"] == "clawd-backend":
        print(process["pm_id"])')
    stages=()
    for id in $ids; do stages+=("pm2 reload $id"); done
    ((${#stages[@]} > 0))
}

# Which version is to come.

fetch() { GIT_TERMINAL_PROMPT=0 timeout 300 git fetch --quiet origin "$@"; }

choose() {
    from=$(git rev-parse HEAD) branch=$(git symbolic-ref --quiet --short HEAD || true)
    local changed
    changed=$(git status --porcelain --untracked-files=no)
    [[ -z $changed ]] || die 2 "files were changed here, commit or undo it first:"$'\n'"$changed"
    if [[ -n $wanted ]]; then
        to=$(git rev-parse --quiet --verify "$wanted^{commit}") \
            || { fetch --tags && to=$(git rev-parse --quiet --verify "$wanted^{commit}"); } \
            || die 2 "there is no commit $wanted"
    else
        fetch "${branch:-main}" || die 2 "can't fetch ${branch:-main} from origin"
        to=$(git rev-parse FETCH_HEAD)
        git merge-base --is-ancestor "$from" "$to" \
            || die 2 "$(short "$from"), which is here, isn't part of origin's ${branch:-main}: name the COMMIT that you mean"
    fi
    if [[ -z $branch ]] && git rev-parse --quiet --verify main >/dev/null; then
        git merge-base --is-ancestor main "$to" || die 2 "main has commits that $(short "$to") hasn't"
    fi
}

# A database that is newer than the code is refused by it. So there is a way back over a new step
# only with a backup, and none to a commit that lacks a step.
look_at_schema() {
    local lost
    lost=$(steps D)
    [[ -z $lost ]] || die 2 "$(short "$to") lacks what the database has, $lost: ./clawd restore a backup from before"
    steps=$(steps A)
    [[ -z $steps ]] || say "this changes the tables by $steps: once that is done, the way back is the backup"
}

# The files of schema/ that are new there (A), or gone (D), on one line.
steps() { git diff --name-only --diff-filter="$1" "$from" "$to" -- schema/ | paste -sd ' '; }

# Whether the database has steps that the code doesn't know.
is_ahead() {
    local said
    said=$(./clawd migrate status --json 2>/dev/null) || true
    [[ $said == *'"state": "unknown"'* ]]
}

back_up() {
    if [[ -e $own/backup ]] && is_ahead; then
        backup=$(<"$own/backup")
        say "the database is newer than what is here; the way back stays $backup"
        return
    fi
    local said status=0
    said=$(./clawd backup --json) || status=$?
    # 1: it is made, but something that was broken already could not be in it.
    ((status <= 1)) || die 2 "no update without a backup"
    backup=$(sed -n 's/^ *"file": "\(.*\)",\{0,1\}$/\1/p' <<<"$said" | head -n 1)
    [[ -n $backup ]] || die 2 "no update without a backup"
    say "backup: $backup"
}

# Forward. `reason` is what to say should the step fail.

go_forward() {
    reason="git can't switch to it" && check_out "$to" || return
    reason="its packages can't be installed" && install || return
    reason="it can't be imported" && venv/bin/python -c 'import app' || return
    reason="the tables can't be changed" && migrate || return
    reason="it doesn't serve within $health_seconds s" && reload && wait_for "$to" "$STEADY"
}

# The branch goes along: production serves from main, not from a commit.
check_out() {
    if [[ -n $branch ]]; then git reset --quiet --keep "$1"; else git checkout --quiet -B main "$1"; fi
}

# Going back must not need a network: what is to be changed is kept first.
install() {
    if [[ ! -e $own/venv ]] && ! git diff --quiet "$from" "$to" -- 'requirements*.lock' scripts/venv; then
        rm -rf "$own/venv.part"
        cp -a venv "$own/venv.part" && mv "$own/venv.part" "$own/venv" || return
    fi
    scripts/venv requirements.lock
}

migrate() {
    [[ -z $admin_url ]] || POSTGRES_ADMIN_URL=$admin_url ./clawd init-postgres
}

# A process manager that is started here would hold the lock for as long as it lives.
reload() {
    local stage
    for stage in "${stages[@]}"; do
        reloaded+=("$stage")
        bash -c "$stage" 9>&- || return
        wait_for "$to" 1 || return
    done
}

# Only what was reloaded. PM2 refuses while it starts a process of its own accord: ask again then.
reload_back() {
    local stage
    for stage in "${reloaded[@]}"; do
        bash -c "$stage" 9>&- || { sleep 3; bash -c "$stage" 9>&-; } || true
    done
}

ask() { curl --silent --noproxy '*' --max-time 5 "$health_url$1" "${@:2}"; }

# Of answers to new connections: several processes may share the port.
serves() {
    local status body
    status=$(ask /health/ready --output /dev/null --write-out '%{http_code}') || return
    body=$(ask /health) || return
    [[ $status == 200 && $body == *"\"commit\":\"$1\""* ]]
}

wait_for() {
    local good=0 until=$((SECONDS + health_seconds))
    while ((good < $2)); do
        if serves "$1"; then ((++good)); else good=0; fi
        ((SECONDS < until)) || return
        ((good == $2)) || sleep 0.2
    done
}

# Back.

put_back() {
    if [[ -n $branch ]]; then
        git checkout --quiet --force -B "$branch" "$from"
    else
        git checkout --quiet --force --detach "$from"
    fi
    if [[ -e $own/venv ]]; then
        rm -rf venv
        mv "$own/venv" venv
    fi
    rm -f "$own/run"
}

go_back() {
    say "$(short "$to"): $reason; back to $(short "$from")" >&2
    put_back
    [[ -z $steps ]] || ! is_ahead || say_how_to_restore
    reload_back
    if ((${#reloaded[@]} > 0)) && ! wait_for "$from" "$STEADY"; then
        die 4 "$(short "$from") doesn't serve either: the service's log says why"
    fi
    forget
    die 1 "$(short "$from") serves again"
}

say_how_to_restore() {
    cat >&2 <<END
redeploy: the database has been changed for $(short "$to"), so $(short "$from") can't start on it. Either mend the
redeploy: new version and run this again, or bring the backup back. What was written since is kept beside it.

    $stop
    ${admin_url:+POSTGRES_ADMIN_URL=... }./clawd restore $(printf '%q' "$backup")
    $start
END
    exit 4
}

forget() { rm -rf "$own/run" "$own/backup" "$own/venv" "$own/venv.part"; }

main() {
    wanted=${1-} admin_url=${POSTGRES_ADMIN_URL-} health_url=${HEALTH_URL:-http://127.0.0.1:8002}
    health_seconds=${HEALTH_SECONDS:-60} backup='' reloaded=()
    # A superuser's password is for one command, not for what the service is started from.
    unset POSTGRES_ADMIN_URL
    case $wanted in
        -h | --help) usage; exit ;;
        -*) usage >&2; exit 2 ;;
    esac
    prepare
    find_manager
    take_up
    choose
    if [[ $from == "$to" ]] && serves "$to"; then
        forget
        say "$(short "$to") serves already"
        exit
    fi
    say "from $(short "$from") to $(short "$to")"
    look_at_schema
    back_up
    remember
    go_forward || go_back
    forget
    say "$(short "$to") serves"
}

# So many good answers one after the other are a service that stays.
readonly STEADY=5
# All of it is read before any of it runs: an update may change this file.
{ main "$@"; exit; }
