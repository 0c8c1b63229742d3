# Flow tests of the command line against a real dhad: cli_NAME.py is one ctest.
function(dha_cli_test name)
  if(NOT TARGET dhad OR NOT TARGET dha)
    return()
  endif()
  add_test(NAME flow.cli_${name} COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/cli_${name}.py)
  set_tests_properties(flow.cli_${name} PROPERTIES LABELS flow TIMEOUT 600 SKIP_RETURN_CODE 77
    ENVIRONMENT "DHA_BIN=$<TARGET_FILE_DIR:dhad>;PYTHONDONTWRITEBYTECODE=1;DHA_SHARED_DATA=${DHA_SHARED_DATA}")
endfunction()

dha_cli_test(commands)
dha_cli_test(jobs)
dha_cli_test(follow)
dha_cli_test(private)
dha_cli_test(generate)
dha_cli_test(sweeps)
dha_cli_test(sweep_real)
dha_cli_test(admin)
