#!/bin/sh
# `wget` of the image contiv/busybox. Debian builds busybox-static without FEATURE_WGET_TIMEOUT, and its
# `wget -T SECONDS` writes through a null pointer and dies by SIGSEGV. busybox's `timeout` ends the
# process by SIGTERM instead (exit code 143).
limit= previous=
for argument; do
  shift
  case $previous$argument in
    -T) previous=-T; continue ;;
    -T*) limit=${argument#-T}; previous=; continue ;;
    --timeout=*) limit=${argument#*=}; continue ;;
  esac
  set -- "$@" "$argument"
done
[ -n "$limit" ] || exec busybox wget "$@"
timeout "$limit" busybox wget "$@"
code=$?
[ $code != 143 ] || { echo 'wget: download timed out' >&2; code=1; }
exit $code
